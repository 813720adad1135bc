"""The programs of examples/python, run as a user would; tests/triton has the test of the service."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import text_scorer
from icgan_runtime.marks.mark import read_marks
from icgan_training.networks.encoder import random_encoder, save_encoder
from tests.examples.notebooks import run
from tests.training.pictures import TINY_ENCODER

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/python"
PHOTOS = ROOT / "examples/photos"


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Returns a function that runs a program in an empty folder and gives its status."""
    monkeypatch.chdir(tmp_path)

    def run_program(name: str, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as done:
            return int(done.code or 0)
        return 0

    return run_program


def test_own_pictures_become_a_model_a_bundle_and_new_pictures(example, tmp_path):
    encoder = tmp_path / "encoder.safetensors"
    save_encoder(random_encoder(TINY_ENCODER), encoder)
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted((ROOT / "models/demo/instances").rglob("*.jpg"))[:16]:
        shutil.copy(path, photos / f"{path.parent.name}-{path.name}")
    command = ("own_pictures.py", photos, "--work", "mine", "--encoder", encoder, "--images", "16")
    assert example(*command) == 0
    sheet = np.asarray(Image.open("mine/generated.png"))
    assert (sheet.shape[-1], sheet.std() > 0) == (3, True)
    assert (tmp_path / "mine/bundle/manifest.json").exists()


def test_own_pictures_ends_with_the_status_of_a_step_that_failed(example, tmp_path):
    (tmp_path / "empty").mkdir()
    assert example("own_pictures.py", tmp_path / "empty") == 1


def test_a_mix_begins_and_ends_with_the_two_pictures(example, tiny_bundle):
    from icgan_runtime import Pipeline

    ends = PHOTOS / "oranges.jpg", PHOTOS / "pears.jpg"
    assert example("mix_two.py", tiny_bundle, *ends, "--steps", 5, "--seeds", 2, "--out", "mix.png") == 0
    assert read_marks(Path("mix.png").read_bytes()).generated
    sheet = np.asarray(Image.open("mix.png"))
    with Pipeline.load(tiny_bundle) as pipe:
        side = pipe.model.resolution
        assert sheet.shape == (2 * side, 5 * side, 3)
        for path, column in zip(ends, (sheet[:, :side], sheet[:, -side:]), strict=True):
            for seed, cell in enumerate(np.split(column, 2)):
                expected = pipe.generate(path, seed=seed, truncation=0.7).images[0].astype(int)
                assert abs(expected - cell).max() <= 1  # the arc's ends are rounded


def test_a_batch_job_goes_on_and_names_what_cannot_be_decoded(example, tiny_bundle, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    shutil.copytree(PHOTOS, pictures)
    (pictures / "broken.jpg").write_bytes(b"no picture")
    command = ("batch_job.py", tiny_bundle, pictures, "-n", 2, "--out", "varied")
    assert example(*command) == 1
    done, errors = capsys.readouterr()
    assert ("broken.jpg" in errors, len(done.splitlines())) == (True, 6)
    written = sorted(path.name for path in (tmp_path / "varied/pears.jpg").iterdir())
    assert written == ["00000.png", "00001.png", "about.json"]
    assert len(json.loads(Path("varied/pears.jpg/about.json").read_text())["neighbours"]) == 5

    shutil.rmtree(tmp_path / "varied/pears.jpg")
    (pictures / "broken.jpg").unlink()
    assert example(*command) == 0
    assert capsys.readouterr().out.split() == ["4/6", str(pictures / "pears.jpg")]


def test_the_notebook_runs_and_shows_pictures(tiny_bundle):
    notebook = run(EXAMPLES / "story.ipynb", ICGAN_BUNDLE=str(tiny_bundle), ICGAN_PHOTOS=str(PHOTOS))
    shown = [
        o for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})
    ]
    assert len(shown) >= 5


def test_the_stored_notebook_has_its_pictures_and_no_place_of_a_machine():
    text = (EXAMPLES / "story.ipynb").read_text()
    assert text.count('"image/jpeg"') >= 5
    assert len(text) < 600_000
    assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "/work/"))


def test_words_are_learnt_from_emoji_and_their_names(example, tiny_bundle, tmp_path):
    """Circles, squares and hearts as Unicode names them, drawn here."""
    emoji = tmp_path / "emoji"
    emoji.mkdir()
    colours = {"red": (220, 30, 30), "blue": (30, 60, 220), "green": (30, 180, 60)}
    points = {
        "red": (0x1F534, 0x1F7E5),
        "blue": (0x1F535, 0x1F7E6, 0x1F499),
        "green": (0x1F7E2, 0x1F7E9, 0x1F49A),
    }
    for colour, rgb in colours.items():
        for point in points[colour]:
            Image.new("RGB", (16, 16), rgb).save(emoji / f"{point:x}.png")
    (emoji / "notes.txt").write_text("no picture")
    assert example("emoji_scorer.py", emoji, tiny_bundle / "encoder.onnx", "--out", "scorer") == 0
    scorer = tmp_path / "scorer"
    files = scorer / "image.onnx", scorer / "text.onnx", scorer / "tokenizer.json"
    shown = np.stack([np.full((8, 8, 3), rgb, np.uint8) for rgb in colours.values()])
    for place, colour in enumerate(colours):
        assert np.argmax(text_scorer(f"{colour} circle", *files)(shown)) == place


def test_a_folder_without_emoji_is_refused(example, tiny_bundle, tmp_path, capsys):
    (tmp_path / "zzz.png").write_bytes(b"")
    assert example("emoji_scorer.py", tmp_path, tiny_bundle / "encoder.onnx") == 2
    assert "has no picture whose name is code points, such as 1f34e.webp" in capsys.readouterr().err
