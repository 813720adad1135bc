"""The web page in a real browser: its pictures against the Python pipeline's, and what a visitor meets."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from icgan_runtime import Pipeline, sheets
from icgan_runtime.marks.mark import read_marks
from icgan_runtime.origin import recover
from icgan_runtime.origin.prove import PROVED, Queries, prove
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


@pytest.fixture(scope="module", params=["tiny_bundle", "bare_bundle"])
def bundle(request) -> Path:
    """One without classes, and one with classes whose bank holds no thumbnails."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def visit(bundle, pictures, node_packages, tmp_path_factory) -> dict[str, Any]:
    """One visit to the page."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    folder = tmp_path_factory.mktemp("web")
    node(EXAMPLES / "web/build.mjs", bundle, folder / "dist")
    told = {"dist": str(folder / "dist"), "query": "?backend=wasm", "chromium": chromium, **pictures}
    told |= {"save": str(folder / "sheet.png"), "single": str(folder / "single.png")}
    seen = json.loads(node(HERE / "browser.mjs", json.dumps(told)))
    sheet = np.asarray(Image.open(folder / "sheet.png").convert("RGB"))
    return seen | {"sheet": sheet, "files": {name: (folder / f"{name}.png") for name in ("sheet", "single")}}


@pytest.fixture(scope="module")
def pipe(bundle):
    with Pipeline.load(bundle, threads=1) as pipe:
        yield pipe


def square(text: str) -> np.ndarray:
    levels = np.frombuffer(base64.b64decode(text), np.uint8)
    side = round((len(levels) / 3) ** 0.5)
    return levels.reshape(side, side, 3).astype(int)


def drawn(visit: dict[str, Any], state: str) -> np.ndarray:
    return np.stack([square(text) for text in visit["states"][state]["images"]])


@pytest.mark.parametrize("condition", ["query", "nearest", "sample"])
def test_a_dropped_picture_gives_pythons_pictures_and_neighbours_for_every_condition(
    condition, visit, pipe, pictures
):
    expected = pipe.generate(pictures["picture"], n=16, seed=SEED, truncation=0.7, condition=condition)
    assert np.abs(drawn(visit, condition) - expected.images).max() <= 1
    near, classes = expected.neighbours, pipe.model.class_names
    assert visit["states"][condition]["scores"] == [f"{score:.3f}" for score in near.scores]
    assert visit["states"][condition]["names"] == (
        [classes[label] for label in near.labels] if classes else list(near.names)
    )


def mixed(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    between = (1 - share) * first + share * second
    return between / np.linalg.norm(between)


# what the visitor did before -> the embedding that the generator should see, truncation, seed
STEPS = {
    "first": (lambda pipe, of: pipe.bank.embeddings[0], 0.7, SEED),
    "mixed": (lambda pipe, of: mixed(of["picture"], of["second"], 0.5), 0.7, SEED),
    "varied": (lambda pipe, of: mixed(of["picture"], of["second"], 0.5), 1.0, SEED),
    "shared": (lambda pipe, of: mixed(of["picture"], of["second"], 0.25), 1.0, SEED),
    "cleared": (lambda pipe, of: of["picture"], 1.0, SEED),
    "stored mixed in": (lambda pipe, of: mixed(of["picture"], pipe.bank.embeddings[7], 0.25), 1.0, SEED),
    "thumbnail": (lambda pipe, of: pipe.bank.embeddings[4], 1.0, SEED),
    "neighbour": (lambda pipe, of: second_nearest(pipe, 4), 1.0, SEED),
    "slid": (lambda pipe, of: second_nearest(pipe, 4), 1.0, 5),
}


def second_nearest(pipe: Pipeline, row: int) -> np.ndarray:
    ids, _ = pipe.search(pipe.bank.embeddings[row : row + 1], k=2)
    return pipe.bank.embeddings[ids[0, 1]]  # ids count the rows


@pytest.mark.parametrize("step", STEPS)
def test_stored_pictures_mixtures_and_sliders_give_pythons_pictures(step, visit, pipe, pictures):
    embedding, truncation, seed = STEPS[step]
    of = dict(zip(("picture", "second"), pipe.embed([pictures["picture"], pictures["second"]]), strict=True))
    expected = pipe.generate_from(embedding(pipe, of), n=16, seed=seed, truncation=truncation)
    assert np.abs(drawn(visit, step) - expected.images).max() <= 1


def test_an_instance_of_the_prior_is_followed_where_there_is_one(visit, pipe):
    assert ("invented" in visit["states"]) == (pipe.chain.prior is not None)
    if pipe.chain.prior is not None:
        embedding, _ = pipe.chain.prior.instances(5, 0)
        expected = pipe.generate_from(embedding, n=16, seed=5, truncation=1.0)
        assert np.abs(drawn(visit, "invented") - expected.images).max() <= 1


def test_the_seed_box_follows_the_slider(visit):
    assert visit["seed"] == "5"


def test_stored_pictures_are_shown_by_thumbnails_or_else_as_the_model_draws_them(visit, bundle, pipe):
    found = np.stack([square(text) for text in visit["looks"]])
    if pipe.bank.thumbnails is not None:
        assert (found == pipe.bank.thumbnails[:18]).all()
        assert not visit["drawn_note"]
    else:
        feeds = {
            "noise": np.zeros((18, pipe.model.dim_z), np.float32),
            "embedding": pipe.bank.embeddings[:18],
        }
        session = onnxruntime.InferenceSession(bundle / "generator.onnx")
        (expected,) = session.run(["image"], feeds | {"label": pipe.bank.labels[:18]})
        assert np.abs(found - expected).max() <= 1
        assert visit["drawn_note"]


def test_a_broken_picture_is_named_and_the_page_goes_on(visit):
    assert visit["problem"].startswith("broken.png: This PNG file is damaged, or of a kind")
    assert len(visit["states"]["followed"]["images"]) == 16


def test_a_generated_picture_can_be_followed_by_keyboard(visit):
    assert visit["dialog"]
    assert (drawn(visit, "followed") != drawn(visit, "slid")).any()


def test_the_downloaded_sheet_holds_the_pictures_on_the_page(visit, pipe):
    assert visit["download"] == "icgan-seed-5.png"
    expected = sheets.grid(drawn(visit, "followed").astype(np.uint8), columns=4, gap=2)
    assert (visit["sheet"] == expected).all()


def test_a_downloaded_picture_says_what_drew_it_and_is_proved_by_drawing_again(visit, pipe):
    data = visit["files"]["single"].read_bytes()
    marks = read_marks(data)
    assert (marks.kind, marks.generated) == ("unsigned", True)
    claim, here = marks.claim, pipe.chain.source
    assert (claim.seed, claim.first, claim.n, claim.truncation) == (5, 2, 1, 1.0)
    assert replace(claim.source, backend=here.backend) == here
    assert claim.source.backend == "onnxruntime-web wasm"
    queries = Queries(pipe.bank.embeddings[4:5])
    settings = recover.Candidates(range(1), range(1), 1.0)
    assert prove(data, marks, pipe.chain, queries, settings).verdict == PROVED


def test_a_downloaded_sheet_claims_all_its_pictures(visit):
    marks = read_marks(visit["files"]["sheet"].read_bytes())
    assert (marks.claim.n, marks.claim.first, marks.claim.seed) == (16, 0, 5)
    assert (marks.claim.sheet.columns, marks.claim.sheet.gap) == (4, 2)


def test_pictures_that_are_picked_get_children_and_every_round_can_be_gone_back_to(visit):
    assert visit["more"] == ["More like this", True, "More like these 2"]
    assert visit["round"].startswith("Round 1")
    first, second, third = (drawn(visit, name) for name in ("stored", "second round", "third round"))
    assert np.abs(second[:2] - first[[2, 5]]).max() <= 1
    assert np.abs(third[0] - second[8]).max() <= 1
    for family, parents in ((second, second[:2]), (third, third[:1])):
        children = family[len(parents) :]
        assert len(np.unique(family.reshape(16, -1), axis=0)) == 16
        assert nearest(children, parents) < nearest(first[6:], parents)
    assert np.abs(drawn(visit, "back once") - second).max() <= 1
    assert (drawn(visit, "other seed")[2:] != second[2:]).any()
    assert np.abs(drawn(visit, "same seed") - second).max() <= 1
    assert np.abs(drawn(visit, "back twice") - first).max() <= 1
    assert not visit["back"]


def nearest(images: np.ndarray, parents: np.ndarray) -> float:
    """Mean difference of images to the parent that is most like them."""
    return np.abs(images[:, None] - parents).mean((2, 3, 4)).min(axis=1).mean()


def test_loading_and_drawing_are_announced(visit):
    assert any(re.fullmatch(r"Loading [\d.]+ of [\d.]+ MB", line) for line in visit["heard"])
    assert "Preparing the models…" in visit["heard"]
    assert re.fullmatch(r"16 pictures in [\d.]+ s", visit["heard"][-1])


def test_the_keyboard_reaches_every_control_in_reading_order(visit):
    stops = iter(visit["stops"])
    for control in (
        "Switch between light and dark",
        "Choose a picture to follow",
        "Choose a second picture to mix in",
        "others",
        "Stored picture 1",
        "Stored picture 18",
        "from",
        "query",
        "truncation",
        "Seed, from 0 to 999",
        "seed",
        "Another seed",
        "Number of pictures",
        "save",
        "Generated picture 1",
        "Pick picture 1",
        "Generated picture 16",
        "Pick picture 16",
    ):
        assert control in stops, f"{control} is not met, or too early: {visit['stops']}"
    assert len(list(stops)) == 5  # the neighbours


def test_a_screen_reader_hears_what_every_control_is(visit):
    for line in (
        'button "Choose a picture to follow"',
        'radio "its nearest"',
        'slider "Truncation": "0.7"',
        'slider "Seed, from 0 to 999"',
        'textbox "Seed"',
        'combobox "Number of pictures"',
        'group "Generated pictures"',
        'button "Generated picture 16"',
        'list "Nearest stored pictures and their similarity"',
        "status: 16 pictures in",
    ):
        assert line in visit["spoken"]


def test_the_page_gets_threads_and_runs_without_errors(visit):
    assert visit["isolated"]
    assert [error for error in visit["errors"] if "ERR_CONNECTION_REFUSED" not in error] == []


def test_the_page_works_after_the_server_is_gone(visit):
    assert visit["offline"] == 16


def test_nothing_that_axe_knows_of_stands_in_anyones_way(visit):
    assert visit["violations"] == {"light": [], "dark": [], "phone": []}
    assert visit["overflow"] <= 0
