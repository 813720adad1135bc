"""`icgan generate`: sheets, single files, and what is said of each picture."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import icgan_runtime
from icgan_runtime import Pipeline
from tests.models.make_models import instance_name
from tests.runtime.cli.common import PHOTO, size
from tests.runtime.marks.certificates import write_signer


def test_generate_writes_a_sheet_with_the_instance_on_the_left(icgan, tiny_bundle, tmp_path):
    out = tmp_path / "new folder" / "grid.png"
    status, printed, _ = icgan("generate", tiny_bundle, PHOTO, PHOTO, "-n", 3, "--seed", 4, "--out", out)
    assert status == 0
    assert f"wrote {out}" in printed
    assert f"{PHOTO}: nearest {instance_name(11)} (" in printed
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
    assert (status, printed.splitlines()[-1]) == (0, f"wrote {out}: 2 files, marked as generated, unsigned")
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "00001.png"]
    icgan("generate", tiny_bundle, PHOTO, other, "-n", 2, "--seed", 4, "--out", out)
    dotted = tmp_path / "v1.png"
    icgan("generate", tiny_bundle, PHOTO, "-n", 2, "--seed", 4, "--out", f"{dotted}/")
    for folder in (dotted, out, out / "photo", out / "other"):
        with Image.open(folder / "00001.png") as opened:
            np.testing.assert_array_equal(np.asarray(opened), expected[1])


def test_generate_draws_instances_where_none_is_named(icgan, labelled_bundle, tiny_bundle, tmp_path):
    with Pipeline.load(labelled_bundle) as pipe:
        expected = pipe.generate(n=3, seed=4)
    asked = ["generate", labelled_bundle, "-n", 3, "--seed", 4]
    status, printed, _ = icgan(*asked, "--columns", 2, "--json", "--out", tmp_path / "a.png")
    assert (status, json.loads(printed)["labels"]) == (0, expected.labels.tolist())
    with Image.open(tmp_path / "a.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened), expected.sheet(2))
    assert icgan(*asked, "--out", tmp_path / "folder")[0] == 0
    with Image.open(tmp_path / "folder" / "00002.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened), expected.images[2])
    status, _, error = icgan("prove", tmp_path / "a.png", "--bundle", labelled_bundle)
    assert status == 0, error
    status, _, error = icgan("generate", tiny_bundle, "--out", tmp_path / "b.png")
    assert (status, error.splitlines()[-1].partition(" to draw")[0]) == (
        1,
        "icgan: picture: none given, and this bundle has no prior",
    )
    with pytest.raises(SystemExit):
        icgan(*asked, "--captions")


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
    assert report["pictures"][0]["neighbours"][0].keys() == {"id", "score", "label", "name"}
    assert report["pictures"][0]["outside"] is False


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
    assert near.labels is not None
    listed = ", ".join(
        f"class {label} no. {i} ({score:.3f})"
        for i, score, label in list(zip(near.ids, near.scores, near.labels, strict=True))[:3]
    )
    assert printed == f"{PHOTO}: nearest {listed} and 2 more\nwrote {out}, marked as generated, unsigned\n"
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
        "mark": "unsigned",
        "pictures": [
            {
                "picture": PHOTO,
                "neighbours": [
                    {"id": i, "score": score, "label": label, "class": f"class {label}"}
                    for i, score, label in entries
                ],
                "outside": False,
                "outside_below": near.outside_below,
                "bank_state": near.bank_state,
            }
        ],
    }


def test_generate_says_how_the_file_is_marked(icgan, tiny_bundle, tmp_path):
    key, _ = write_signer(tmp_path)
    for flags, words in (
        (["--sign-key", key], "marked as generated and signed"),
        (["--no-mark"], "not marked"),
    ):
        _, printed, _ = icgan("generate", tiny_bundle, PHOTO, *flags, "--out", tmp_path / "a.png")
        assert f"wrote {tmp_path / 'a.png'}, {words}" in printed


def test_generate_follows_embeddings_in_a_file_and_stored_instances(icgan, tiny_bundle, tmp_path):
    rows, out = tmp_path / "rows.npy", tmp_path / "images"
    icgan("embed", tiny_bundle, PHOTO, PHOTO, "--out", rows)
    command = ["generate", tiny_bundle, rows, "--instance", 4, "-n", 1, "--seed", 3]
    status, printed, _ = icgan(*command, "--out", out)
    assert status == 0
    assert f"{rows} row 1: nearest" in printed
    assert f"instance 4: nearest {instance_name(4)} (1.000)" in printed
    folders = ["instance-4", "rows-00000", "rows-00001"]
    assert sorted(path.name for path in out.iterdir()) == folders
    with Pipeline.load(tiny_bundle) as pipe:
        expected = [pipe.generate_from(pipe.bank.embeddings[4], seed=3)] + [pipe.generate(PHOTO, seed=3)] * 2
    for folder, result in zip(folders, expected, strict=True):
        with Image.open(out / folder / "00000.png") as opened:
            np.testing.assert_array_equal(np.asarray(opened), result.images[0])
    assert icgan(*command, "--out", tmp_path / "sheet.png")[0] == 0
    assert size(tmp_path / "sheet.png")[1] == 3 * 8 + 2 * 2


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (["--instance", 99], "instance: 99 is not stored; `icgan search` prints ids, which lie in 0..19"),
        (["bad.npy"], "embeddings: bad.npy: not a .npy file of version 1.0; expected what `icgan embed"),
        (["wide.npy"], "embedding: float32[2, 7], expected float32[12] or float32[N, 12]"),
    ],
)
def test_what_cannot_be_followed_is_named(icgan, tiny_bundle, tmp_path, monkeypatch, what, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    np.save(tmp_path / "wide.npy", np.ones((2, 7), np.float32))
    status, _, complaint = icgan("generate", tiny_bundle, *what, "--out", "a.png")
    assert (status, list(tmp_path.glob("*.png"))) == (1, [])
    assert complaint.startswith(f"icgan: {words}")


def test_a_sheet_with_captions_says_what_it_shows_and_can_still_be_proved(icgan, tiny_bundle, tmp_path):
    out, plain = tmp_path / "a.png", tmp_path / "b.png"
    command = ["generate", tiny_bundle, PHOTO, PHOTO, "-n", 2, "--columns", 1]
    icgan(*command, "--out", plain)
    assert icgan(*command, "--captions", "--out", out)[0] == 0
    with Image.open(out) as opened, Image.open(plain) as without:
        sheet, bare = np.asarray(opened), np.asarray(without)
    assert sheet.shape[0] == bare.shape[0] + 2 * 15
    np.testing.assert_array_equal(sheet[:18], bare[:18])
    assert sheet[18:33].min() < 128, "words"
    np.testing.assert_array_equal(sheet[35:53], bare[20:38])
    status, printed, _ = icgan("prove", out, "--bundle", tiny_bundle, "--picture", PHOTO, "--picture", PHOTO)
    assert status == 0, printed


def test_a_picture_unlike_all_stored_ones_is_warned_of(icgan, tiny_bundle, tmp_path):
    book = json.loads((tiny_bundle / "manifest.json").read_text())
    book["provenance"]["bank"] = {"outside_below": 0.99}
    other = tmp_path / "other"
    shutil.copytree(tiny_bundle, other)
    (other / "manifest.json").write_text(json.dumps(book))
    for command in (["generate", other, PHOTO, "--out", tmp_path / "a.png"], ["search", other, PHOTO]):
        status, printed, errors = icgan(*command, "--json")
        assert (status, json.loads(printed)["pictures"][0]["outside"]) == (0, True)
        assert f"warning: {PHOTO} is less like any stored picture (0.5" in errors
    assert "warning" not in icgan("search", tiny_bundle, PHOTO)[2]


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
