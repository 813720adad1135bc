"""The web page on WebGPU (a software adapter), and what it does where WebGPU fails or nothing is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import Pipeline
from tests.edge.conftest import EXAMPLES, node
from tests.edge.proof import assert_proved
from tests.edge.test_web import square

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def seen(tiny_bundle, picture, node_packages, tmp_path_factory) -> dict[str, Any]:
    """Visits to the page in one browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    dist = tmp_path_factory.mktemp("web") / "dist"
    node(EXAMPLES / "web/build.mjs", tiny_bundle, dist)
    told = {"dist": str(dist), "chromium": chromium, "picture": picture}
    found: dict[str, Any] = json.loads(node(HERE / "webgpu.mjs", json.dumps(told)))
    return found


@pytest.fixture(scope="module")
def on_gpu(seen) -> dict[str, Any]:
    if not seen["adapter"]:
        pytest.skip("this Chromium has no software adapter for WebGPU")
    return seen


def test_a_picture_is_embedded_and_drawn_on_webgpu_as_in_python(on_gpu, tiny_bundle, picture):
    assert "WebGPU on your device" in on_gpu["gpu"]["facts"]
    assert not on_gpu["gpu"]["told"]
    with Pipeline.load(tiny_bundle, threads=1) as pipe:
        expected = pipe.generate(picture, n=16, seed=0, truncation=0.7)
    drawn = np.stack([square(text) for text in on_gpu["gpu"]["images"]])
    assert np.abs(drawn - expected.images).max() <= 1
    assert_proved(drawn[6].astype(np.uint8), tiny_bundle, expected.embedding, 0, 6, 0.7)


def test_webgpu_in_software_is_not_chosen_by_the_page_itself(on_gpu):
    assert "thread" in on_gpu["unasked"]["facts"]
    assert not on_gpu["unasked"]["told"]


def test_a_release_frees_what_the_graphs_held_on_the_gpu(on_gpu):
    held = on_gpu["memory"]
    assert all(after < during / 10 for during, after in held), held
    assert held[-1][1] <= held[0][1], "memory grows with every bundle that is opened"


def test_where_webgpu_fails_the_processor_draws_and_the_page_says_so(on_gpu):
    refused = on_gpu["refused"]
    assert "thread" in refused["facts"]
    assert refused["told"]
    assert refused["fallback"].startswith("WebGPU is offered here but could not run the models")
    assert "(no shader today)" in refused["fallback"]
    assert refused["problem"] == ""


def test_a_browser_with_neither_is_told_which_ones_have_it(seen):
    assert "this browser offers neither" in seen["neither"]["problem"]
    assert "Safari from 16.4" in seen["neither"]["problem"]
