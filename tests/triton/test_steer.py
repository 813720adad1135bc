"""Steering over a real server: the generator's stage draws the noise that is sent to it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from icgan_runtime import AsyncPipeline, Pipeline
from icgan_runtime.errors import RequestError
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


def test_asyncio_steers_several_at_once_with_the_same_results(labelled_server):
    settings: dict[str, Any] = {"label": 1, "iterations": 4, "population": 6}

    async def steered():
        async with AsyncPipeline.connect(labelled_server.grpc_url) as pipe:
            with pytest.raises(RequestError, match="of: 2, expected 4"):
                await pipe.rank(PHOTO, redness, n=4, of=2)
            return await asyncio.gather(
                pipe.rank(PHOTO, redness, of=20, label=1),
                pipe.interpolate(PHOTO, end_seed=1, frames=5, label=2),
                pipe.guide(PHOTO, redness, **settings),
                pipe.invert(PHOTO, **settings),
            )

    ranked, path, guided, inverted = asyncio.run(steered())
    with Pipeline.connect(labelled_server.grpc_url) as pipe:
        np.testing.assert_array_equal(ranked.samples, pipe.rank(PHOTO, redness, of=20, label=1).samples)
        expected = pipe.interpolate(PHOTO, end_seed=1, frames=5, label=2)
        np.testing.assert_array_equal(path.images, expected.images)
        np.testing.assert_array_equal(guided.images, pipe.guide(PHOTO, redness, **settings).images)
        np.testing.assert_array_equal(inverted.images, pipe.invert(PHOTO, **settings).images)


def test_a_search_that_nobody_waits_for_asks_no_more(labelled_server):
    scored, go_on, asked = threading.Event(), threading.Event(), []

    def slowly(images):
        asked.append(len(images))
        scored.set()
        go_on.wait(30)
        return redness(images)

    async def give_up():
        async with AsyncPipeline.connect(labelled_server.grpc_url) as pipe:
            search = asyncio.create_task(pipe.guide(PHOTO, slowly, label=1, population=6))
            await asyncio.to_thread(scored.wait, 30)
            search.cancel()
            with pytest.raises(asyncio.CancelledError):
                await search
            go_on.set()
            return await pipe.generate(PHOTO, label=1)

    assert asyncio.run(give_up()).images.shape[0] == 1  # and the thread has ended, which run() waits for
    assert asked == [6]
