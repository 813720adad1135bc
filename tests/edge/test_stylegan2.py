"""A StyleGAN2 bundle on a device: every runtime draws the Python pipeline's pictures; psi truncates them."""

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
from tests.edge.test_web import square

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def seen(
    stylegan2_bundle: Path, picture: str, node_packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    dist = tmp_path_factory.mktemp("web") / "dist"
    node(EXAMPLES / "web/build.mjs", stylegan2_bundle, dist)
    told = {"dist": str(dist), "chromium": chromium, "picture": picture}
    return json.loads(node(HERE / "backends.mjs", json.dumps(told)))


@pytest.mark.parametrize("backend", ["wasm", "webgpu"])
def test_the_page_draws_pythons_pictures_at_every_truncation(
    backend: str, seen: Any, stylegan2_bundle: Path, picture: str
) -> None:
    if backend == "webgpu" and not seen["adapter"]:
        pytest.skip("this Chromium has no software adapter for WebGPU")
    visit = seen[backend]
    assert visit["problem"] == ""
    assert ("WebGPU on your device" in visit["facts"]) == (backend == "webgpu"), visit["fallback"]
    with Pipeline.load(stylegan2_bundle, threads=1) as pipe:
        for truncation in (0.7, 0.4):
            expected = pipe.generate(picture, n=16, seed=0, truncation=truncation)
            drawn = np.stack([square(text) for text in visit[str(truncation)]])
            assert np.abs(drawn - expected.images).max() <= 1
