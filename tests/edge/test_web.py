"""The web page in a real browser: its pictures against the Python pipeline's, and what a visitor meets."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import Pipeline
from tests.edge.conftest import EXAMPLES, node

HERE = Path(__file__).parent
SEED = 9007199254740993  # beyond what a double holds


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, height, width in (("picture", 61, 90), ("second", 120, 77)):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture follows")
    return {name: str(folder / f"{name}.png") for name in ("picture", "second", "broken")}


@pytest.fixture(scope="module")
def visit(tiny_bundle, pictures, node_packages, tmp_path_factory) -> dict[str, Any]:
    """One visit to the page, on the tiny bundle."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    dist = tmp_path_factory.mktemp("web") / "dist"
    node(EXAMPLES / "web/build.mjs", tiny_bundle, dist)
    told = {"dist": str(dist), "query": "?backend=wasm", "chromium": chromium, **pictures}
    return json.loads(node(HERE / "browser.mjs", json.dumps(told)))


@pytest.fixture(scope="module")
def pipe(tiny_bundle):
    with Pipeline.load(tiny_bundle, threads=1) as pipe:
        yield pipe


def drawn(visit: dict[str, Any], state: str, side: int) -> np.ndarray:
    rows = [np.frombuffer(base64.b64decode(text), np.uint8) for text in visit["states"][state]["images"]]
    return np.stack(rows).reshape(-1, side, side, 3)


def mixed(pipe: Pipeline, pictures: dict[str, str]) -> np.ndarray:
    between = pipe.embed([pictures["picture"], pictures["second"]]).sum(axis=0)
    return between / np.linalg.norm(between)


@pytest.mark.parametrize("condition", ["query", "nearest", "sample"])
def test_pictures_are_pythons_for_every_condition(condition, visit, pipe, pictures):
    expected = pipe.generate(pictures["picture"], n=16, seed=SEED, truncation=0.7, condition=condition)
    found = drawn(visit, condition, pipe.model.resolution)
    assert np.abs(found.astype(int) - expected.images).max() <= 1
    assert visit["states"][condition]["scores"] == [f"{score:.3f}" for score in expected.neighbours.scores]


def test_a_stored_picture_is_followed_as_in_python(visit, pipe):
    expected = pipe.generate_from(pipe.chain.bank.embeddings[0], n=16, seed=SEED, truncation=0.7)
    assert np.abs(drawn(visit, "stored", pipe.model.resolution).astype(int) - expected.images).max() <= 1


@pytest.mark.parametrize(("state", "truncation"), [("mixed", 0.7), ("varied", 1.0)])
def test_two_pictures_are_mixed_by_their_embeddings(state, truncation, visit, pipe, pictures):
    expected = pipe.generate_from(mixed(pipe, pictures), n=16, seed=SEED, truncation=truncation)
    assert np.abs(drawn(visit, state, pipe.model.resolution).astype(int) - expected.images).max() <= 1


def test_a_broken_picture_is_named_and_the_page_goes_on(visit):
    assert visit["problem"].startswith("broken.png: This file cannot be read as a picture.")
    assert len(visit["states"]["followed"]["images"]) == 16


def test_a_generated_picture_can_be_followed_by_keyboard_and_the_sheet_downloaded(visit):
    assert visit["dialog"]
    assert visit["download"] == f"icgan-seed-{SEED}.png"


def test_the_page_gets_threads_and_runs_without_errors(visit):
    assert visit["isolated"]
    assert [error for error in visit["errors"] if "ERR_CONNECTION_REFUSED" not in error] == []


def test_the_page_works_after_the_server_is_gone(visit):
    assert visit["offline"] == 16


def test_nothing_that_axe_knows_of_stands_in_anyones_way(visit):
    assert visit["violations"] == {"light": [], "dark": [], "phone": []}
    assert visit["overflow"] <= 0
