"""Proof by drawing again, in Python's backends, of what another runtime drew."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import Pipeline, images
from icgan_runtime.chain import LocalChain
from icgan_runtime.marks.mark import read_marks
from icgan_runtime.origin import recover
from icgan_runtime.origin.prove import PROVED, Queries, prove

BACKENDS = {"ort-cpu": "onnxruntime", "openvino": "openvino"}


def assert_proved(
    picture: NDArray[np.uint8],
    bundle: Path,
    embedding: NDArray[np.float32] | None,
    seed: int,
    sample: int,
    truncation: float,
) -> None:
    """The picture [R, R, 3], saved without a claim, is found and proved; embedding None: the whole bank's."""
    data = images.encode(picture)
    for backend in (name for name, module in BACKENDS.items() if importlib.util.find_spec(module)):
        with Pipeline.load(bundle, backend=backend, threads=1) as pipe:
            assert isinstance(pipe.chain, LocalChain)
            held = pipe.bank.embeddings if embedding is None else embedding[None]
            settings = recover.Candidates(range(seed, seed + 1), range(8), truncation)
            verdict = prove(data, read_marks(data), pipe.chain, Queries(np.asarray(held)), settings)
        assert (verdict.verdict, verdict.how) == (PROVED, "search"), backend
        assert (verdict.seed, verdict.sample) == (seed, sample), backend
