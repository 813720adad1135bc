"""`icgan rank`, `interpolate`, `guide` and `invert`: files written, what is said, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, WebPImagePlugin

from icgan_runtime import Pipeline
from icgan_runtime.marks.mark import read_marks
from tests.runtime.cli.common import PHOTO, size
from tests.runtime.steer import graphs

SHORT = ("--iterations", 2, "--population", 4)


@pytest.fixture
def scorer(tmp_path):
    return graphs.redness_of_pixels(tmp_path / "red.onnx")


def test_rank_writes_the_best_and_says_which_they_are(icgan, tiny_bundle, tmp_path, scorer):
    words = ("rank", tiny_bundle, PHOTO, "--scorer", scorer, "-n", 2, "--of", 40, "--seed", 3)
    status, printed, _ = icgan(*words, "--out", tmp_path / "best/")
    with Pipeline.load(tiny_bundle) as pipe:
        best = pipe.rank(PHOTO, scorer, n=2, of=40, seed=3)
    assert status == 0
    assert best.samples is not None
    lines = printed.splitlines()
    for place, sample in enumerate(best.samples):
        assert lines[place].startswith(f"{place}: score ")
        assert lines[place].endswith(f" (sample {sample})")
        with Image.open(tmp_path / "best" / f"{sample:05}.png") as opened:
            np.testing.assert_array_equal(np.asarray(opened), best.images[place])
    assert lines[-1] == f"wrote {tmp_path / 'best'}: 2 files, marked as generated, unsigned"
    _, printed, _ = icgan(*words, "--out", tmp_path / "best.png", "--json")
    assert [each["sample"] for each in json.loads(printed)["images"]] == best.samples.tolist()


def test_words_rank_with_three_files(icgan, tiny_bundle, tmp_path):
    encoders = (
        ("--image-encoder", graphs.mean_of_floats(tmp_path / "image.onnx")),
        ("--text-encoder", graphs.colour_words(tmp_path / "text.onnx")),
        ("--tokenizer", graphs.tokenizer(tmp_path / "tokenizer.json")),
    )
    words = [word for pair in encoders for word in pair]
    out = tmp_path / "a.png"
    assert icgan("rank", tiny_bundle, PHOTO, "--text", "red", *words, "-n", 1, "--out", out)[0] == 0
    assert size(out) == (8, 8)


def test_interpolate_writes_a_film_a_sheet_or_a_folder(icgan, tiny_bundle, tmp_path):
    words = ("interpolate", tiny_bundle, PHOTO, "--instance", 3, "--frames", 5, "--frame-ms", 50)
    for name in ("path.webp", "path.png", "frames/"):
        assert icgan(*words, "--out", f"{tmp_path}/{name}")[0] == 0
    with WebPImagePlugin.WebPImageFile(tmp_path / "path.webp") as film:
        assert (film.n_frames, film.size) == (5, (8, 8))
    assert size(tmp_path / "path.png") == (3 * 8 + 2 * 2, 2 * 8 + 2)
    assert len(list((tmp_path / "frames").iterdir())) == 5


def test_guide_and_invert_write_what_they_found(icgan, tiny_bundle, tmp_path, scorer):
    out = tmp_path / "guided.png"
    words = ("guide", tiny_bundle, PHOTO, "--instance", 3, "--scorer", scorer, "-n", 2, *SHORT, "--json")
    status, printed, _ = icgan(*words, "--out", out)
    (data, again) = json.loads(printed), json.loads(icgan(*words, "--out", tmp_path / "again.png")[1])
    assert status == 0
    assert [len(each["weights"]) for each in data["images"]] == [2, 2]
    assert data["images"] == again["images"], "the same seed, the same images"
    claim = read_marks(out.read_bytes()).claim
    assert claim is not None
    assert claim.latents is not None
    assert icgan("prove", out, "--bundle", tiny_bundle, "--picture", PHOTO)[0] == 1
    assert icgan("invert", tiny_bundle, PHOTO, *SHORT, "--out", tmp_path / "inverted.png")[0] == 0
    status, printed, _ = icgan(
        "prove", tmp_path / "inverted.png", "--bundle", tiny_bundle, "--picture", PHOTO
    )
    assert (status, printed.splitlines()[0]) == (0, "proved: drawn from the noise in its claim")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("rank BUNDLE PHOTO", "give one of --scorer and --text"),
        ("guide BUNDLE PHOTO --scorer a --text b", "give one of --scorer and --text"),
        ("rank BUNDLE PHOTO --text red", "--text needs --image-encoder, --text-encoder and --tokenizer"),
        ("rank BUNDLE PHOTO --scorer a --tokenizer b", "--tokenizer means nothing without --text"),
        ("rank BUNDLE PHOTO PHOTO --scorer SCORER", "rank follows one PICTURE"),
        ("interpolate BUNDLE PHOTO PHOTO PHOTO", "interpolate goes from one PICTURE to another"),
    ],
)
def test_what_is_no_question_is_a_usage_error(icgan, capsys, tiny_bundle, scorer, words, complaint):
    known = {"BUNDLE": tiny_bundle, "PHOTO": PHOTO, "SCORER": scorer}
    with pytest.raises(SystemExit, match="2"):
        icgan(*(known.get(word, word) for word in words.split()))
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("rank BUNDLE PHOTO --scorer absent.onnx", "scorer: absent.onnx: cannot be read"),
        ("rank BUNDLE PHOTO --scorer SCORER --of 2", "of: 2, expected 4..10000, of which 4 are kept"),
        ("interpolate BUNDLE PHOTO", "end: missing; give another picture, or another end_seed"),
        ("interpolate BUNDLE PHOTO --end-seed 1 --out a.gif", "out: a.gif, expected a name ending in .png"),
        ("invert BUNDLE --instance 3", "picture: an embedding, expected a picture file to compare with"),
        ("guide BUNDLE PHOTO --scorer SCORER --population 1", "population: 1, expected 4..1000 images"),
    ],
)
def test_a_mistake_is_one_line(icgan, tiny_bundle, scorer, words, complaint):
    known = {"BUNDLE": tiny_bundle, "PHOTO": PHOTO, "SCORER": scorer}
    status, printed, said = icgan(*(known.get(word, word) for word in words.split()))
    assert (status, printed) == (1, "")
    assert complaint in said
