"""`icgan generate`: sheets, single files, and what is said of each picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import icgan_runtime
from icgan_runtime import Pipeline
from tests.runtime.cli.common import PHOTO, size


def test_generate_writes_a_sheet_with_the_instance_on_the_left(icgan, tiny_bundle, tmp_path):
    out = tmp_path / "new folder" / "grid.png"
    status, printed, _ = icgan("generate", tiny_bundle, PHOTO, PHOTO, "-n", 3, "--seed", 4, "--out", out)
    assert status == 0
    assert f"wrote {out}" in printed
    assert f"{PHOTO}: nearest 11 (" in printed
    with Image.open(out) as opened:
        sheet = np.asarray(opened)
    assert sheet.shape == (2 * 8 + 2, 8 + 6 + 3 * 8 + 2 * 2, 3)
    with Pipeline.load(tiny_bundle) as pipe:
        np.testing.assert_array_equal(sheet[:8, 14:22], pipe.generate(PHOTO, n=3, seed=4).images[0])


def test_generate_writes_single_files_into_a_folder(icgan, tiny_bundle, tmp_path):
    other = tmp_path / "other.jpg"
    other.write_bytes(Path(PHOTO).read_bytes())
    with Pipeline.load(tiny_bundle) as pipe:
        expected = pipe.generate(PHOTO, n=2, seed=4).images
    out = tmp_path / "images"
    status, printed, _ = icgan("generate", tiny_bundle, PHOTO, "-n", 2, "--seed", 4, "--out", out)
    assert (status, printed.splitlines()[-1]) == (0, f"wrote {out}")
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "00001.png"]
    icgan("generate", tiny_bundle, PHOTO, other, "-n", 2, "--seed", 4, "--out", out)
    for path in (out / "00001.png", out / "photo" / "00001.png", out / "other" / "00001.png"):
        with Image.open(path) as opened:
            np.testing.assert_array_equal(np.asarray(opened), expected[1])


def test_generate_wraps_samples_into_columns(icgan, tiny_bundle, tmp_path):
    icgan("generate", tiny_bundle, PHOTO, "-n", 5, "--columns", 2, "--out", tmp_path / "a.png")
    assert size(tmp_path / "a.png") == (8 + 6 + 2 * 8 + 2, 3 * 8 + 2 * 2)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.PNG"])
def test_generate_writes_the_format_of_the_name(icgan, tiny_bundle, tmp_path, name):
    assert icgan("generate", tiny_bundle, PHOTO, "--out", tmp_path / name)[0] == 0
    with Image.open(tmp_path / name) as sheet:
        assert sheet.format in ("JPEG", "WEBP", "PNG")


def test_generate_reports_as_json(icgan, tiny_bundle, tmp_path):
    _, printed, _ = icgan("generate", tiny_bundle, PHOTO, "--json", "--out", tmp_path / "a.png")
    report = json.loads(printed)
    assert report["pictures"][0]["neighbours"][0].keys() == {"id", "score", "label"}


def test_a_sheet_that_cannot_be_written_is_reported(icgan, tiny_bundle, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    status, _, complaint = icgan("generate", tiny_bundle, PHOTO, "--out", tmp_path / "file" / "a.png")
    assert status == 1
    assert complaint.startswith(f"icgan: out: {tmp_path}/file/a.png cannot be written (")


@pytest.mark.parametrize(("kind", "n"), [("webp", 1700), ("jpg", 7000)])
def test_a_sheet_too_large_for_its_format_is_a_mistake(icgan, tiny_bundle, tmp_path, kind, n):
    out = tmp_path / f"sheet.{kind}"
    status, _, errors = icgan("generate", tiny_bundle, PHOTO, "-n", n, "--columns", 1, "--out", out)
    name = {"jpg": "JPEG"}.get(kind, "WEBP")
    expected = f"icgan: out: {8 + 6 + 8} × {10 * n - 2} pixels are too many for a {name}; use .png\n"
    assert (status, errors, out.exists()) == (1, expected, False)


def test_generate_says_for_each_picture_what_is_near_and_reports_what_was_asked(
    icgan, labelled_bundle, tmp_path
):
    out = tmp_path / "a.png"
    flags = ["-n", 2, "--seed", 9, "--truncation", 0.5, "--condition", "nearest", "--label", 2, "--out", out]
    _, printed, _ = icgan("generate", labelled_bundle, PHOTO, *flags)
    with Pipeline.load(labelled_bundle) as pipe:
        result = pipe.generate(PHOTO, n=2, seed=9, truncation=0.5, condition="nearest", label=2)
    near = result.neighbours
    listed = ", ".join(f"{i} ({score:.3f})" for i, score in zip(near.ids, near.scores, strict=True))
    assert printed == f"{PHOTO}: nearest {listed}\nwrote {out}\n"
    with Image.open(out) as opened:
        np.testing.assert_array_equal(np.asarray(opened)[:8, 14:22], result.images[0])
    _, printed, _ = icgan("generate", labelled_bundle, PHOTO, *flags, "--json")
    entries = zip(near.ids.tolist(), near.scores.tolist(), near.labels.tolist(), strict=True)
    data = json.loads(printed)
    assert data.pop("route")["backend"] == "ort-cpu"
    assert data == {
        "out": str(out),
        "seed": 9,
        "n": 2,
        "pictures": [
            {
                "picture": PHOTO,
                "neighbours": [{"id": i, "score": score, "label": label} for i, score, label in entries],
            }
        ],
    }


def test_a_reader_that_has_seen_enough_does_not_cost_the_pictures(tiny_bundle, tmp_path):
    """`icgan generate … | head -1`: nobody reads on, and the sheet is written all the same."""
    photo, sheet = tmp_path / "photo.png", tmp_path / "sheet.png"
    Image.new("RGB", (40, 40), "red").save(photo)
    command = ["generate", tiny_bundle, photo, photo, "-n", "1", "--out", sheet]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "icgan_runtime", *command],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=Path(icgan_runtime.__file__).parents[1],
    )
    os.close(write)
    assert (done.returncode, done.stderr[:13]) == (0, b"route: ort-cp")
    assert sheet.exists()
