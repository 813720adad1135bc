"""The same bundle in this process and behind a server, for what must not depend on it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.origin.prove import Drawing, Judge


@pytest.fixture(scope="session")
def local(tiny_bundle) -> Iterator[Pipeline]:
    with Pipeline.load(tiny_bundle, threads=1) as pipe:
        yield pipe


@pytest.fixture(scope="session")
def labelled(labelled_bundle) -> Iterator[Pipeline]:
    with Pipeline.load(labelled_bundle, threads=1) as pipe:
        yield pipe


@pytest.fixture(scope="session", params=["grpc", "http"])
def remote(request, tiny_bundle) -> Iterator[Pipeline]:
    pytest.importorskip(f"tritonclient.{request.param}", reason="pip install 'icgan[triton]'")
    from tests.runtime.stand_in import StandIn

    with StandIn(tiny_bundle) as server, Pipeline.connect(server.url(request.param)) as pipe:
        yield pipe


def redness(images):
    """Mean red less mean blue."""
    return images[..., 0].mean((1, 2)) - images[..., 2].mean((1, 2))


def unlike(_: Judge, cell: np.ndarray, drawn: np.ndarray, **__: int) -> Drawing:
    """What a judge says of pictures that are not alike: it takes seconds, and its own tests, to say so."""
    return Drawing(cell, drawn, 255, 0.0, 1.0)
