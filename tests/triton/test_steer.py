"""Steering over a real server: the generator's stage draws the noise that is sent to it."""

from __future__ import annotations

import numpy as np

from icgan_runtime import Pipeline
from tests.picture_files import PHOTO
from tests.runtime.steer.conftest import redness


def test_a_server_steers_as_this_process_does(labelled_server, labelled_bundle):
    with (
        Pipeline.load(labelled_bundle, threads=1) as local,
        Pipeline.connect(labelled_server.grpc_url) as remote,
    ):
        assert remote.chain._exchange.service.generator == "1"  # type: ignore[attr-defined]
        ranked = [pipe.rank(PHOTO, redness, of=20, label=1).samples for pipe in (local, remote)]
        np.testing.assert_array_equal(ranked[0], ranked[1])
        paths = [pipe.interpolate(PHOTO, end_seed=1, frames=5, label=2) for pipe in (local, remote)]
        assert np.abs(paths[0].images.astype(int) - paths[1].images).max() <= 1
        found = [pipe.guide(PHOTO, redness, label=1, iterations=4, population=6) for pipe in (local, remote)]
        assert abs(redness(found[0].images) - redness(found[1].images))[0] < 1
