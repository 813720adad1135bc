"""`icgan bank add`, `remove`, `list` and `compact`: pictures come and go, and the words that say so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import Pipeline, registry
from icgan_runtime.bundle.changes import LOG_NAME
from icgan_runtime.bundle.manifest import Manifest
from icgan_runtime.errors import RequestError
from tests.runtime.cli.common import PHOTO


@pytest.fixture
def bundle(copy_bundle, tiny_bundle) -> Path:
    """Free to be changed."""
    return copy_bundle(tiny_bundle)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three pictures and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def test_pictures_come_are_found_go_and_are_erased(icgan, bundle, photos):
    status, printed, errors = icgan("bank", "add", bundle, photos, PHOTO, "--label", "0", "--threads", 1)
    lines = printed.splitlines()
    assert (status, lines[:4]) == (
        0,
        ["added 20  0.png", "added 21  1.png", "added 22  2.png", f"added 23  {Path(PHOTO).name}"],
    )
    assert lines[4].startswith("4 added, the bank is in state 4-")
    assert "left out of the bank: " in errors
    assert icgan("search", bundle, photos / "1.png", "-k", 1)[1].split()[1:4] == ["1.000", "21", "1.png"]
    with Pipeline.load(bundle) as pipe, Image.open(photos / "1.png") as picture:
        assert pipe.bank.thumbnails is not None
        seen = pipe.bank.thumbnails[21].mean(axis=(0, 1)) - np.asarray(picture).mean(axis=(0, 1))
        assert np.abs(seen).max() < 40, "the thumbnail is of the picture"
    status, printed, _ = icgan("bank", "remove", bundle, 3, 22, "--name", "1.png")
    assert (status, printed.startswith("3 removed, the bank is in state 7-")) == (0, True)
    status, printed, _ = icgan("bank", "list", bundle)
    summary, *rows = printed.splitlines()
    assert summary.startswith("21 instances, state 7-")
    assert summary.endswith(": 20 stored, 4 added and 3 removed since the bank was written")
    assert [row.split()[0] for row in rows] == [str(i) for i in range(24) if i not in (3, 21, 22)]
    assert "7 changes since (icgan bank list)" in icgan("info", bundle)[1]
    status, printed, _ = icgan("bank", "compact", bundle)
    assert printed == f"wrote {bundle}: its bank is stored in state {summary.split()[3].rstrip(':')}\n"
    assert icgan("bank", "list", bundle)[1].splitlines()[1:] == rows
    assert icgan("bank", "compact", bundle)[1] == f"{bundle}: nothing has changed\n"
    assert icgan("info", "--verify", bundle)[1].splitlines()[-1].endswith(" 0 failed")


def test_the_same_pictures_again_are_left_out(icgan, bundle, photos):
    command = ("bank", "add", bundle, photos, "--label", "0", "--threads", 1)
    icgan(*command)
    status, printed, errors = icgan(*command, "--json")
    assert (status, json.loads(printed)["added"], json.loads(printed)["known"]) == (0, [], 3)
    assert "left out: 3 that are in the bank already" in errors


def test_a_state_of_before_is_listed_and_drawn_from(icgan, bundle, photos, tmp_path):
    icgan("bank", "add", bundle, photos / "0.png", "--label", "0", "--threads", 1)
    state = json.loads(icgan("bank", "list", bundle, "--json")[1])["state"]
    icgan("bank", "remove", bundle, 20)
    listed = json.loads(icgan("bank", "list", bundle, "--state", state, "--json")[1])
    assert listed["instances"][-1] == {"id": 20, "name": "0.png", "class": 0}
    command = ("search", bundle, photos / "0.png", "-k", 1, "--json")
    now, then = (json.loads(icgan(*command, *more)[1])["pictures"][0] for more in ((), ("--state", state)))
    assert (then["neighbours"][0]["id"], then["bank_state"]) == (20, state)
    assert now["neighbours"][0]["id"] != 20
    complaint = icgan(*command, "--state", "9-abc")[2]
    assert complaint.startswith("icgan: state: '9-abc' is none of this bank: its 3 states are 0-")


def test_mistakes_are_one_line_that_says_what_to_do(icgan, bundle, photos, tmp_path):
    for words, said in (
        (("add", bundle, photos), "label: the instances of this bank have classes: give --label"),
        (("add", bundle, photos, "--label", "x"), "label: 'x' is no class"),
        (("add", bundle, photos / "broken.jpg", "--label", "0"), "picture: "),
        (("add", bundle, photos / "none.png"), "from: "),
        (("remove", bundle, 77), "id: 77 is not in the bank; icgan bank list shows what is"),
        (("remove", bundle, "--name", "77.png"), "name: 77.png is not in the bank"),
        (("list", bundle, "--changes", "mysql://a"), "changes: 'mysql://a', expected postgresql://"),
        (("compact", tmp_path / "none"), "bundle: "),
        (("list", tmp_path), f"{tmp_path}: holds no manifest.json"),
    ):
        status, printed, complaint = icgan("bank", *words)
        assert (status, printed, complaint.count("icgan: ")) == (1, "", 1), words
        assert complaint.splitlines()[-1].startswith(f"icgan: {said}"), complaint
    assert not (bundle / LOG_NAME).exists()
    (tmp_path / "icgan.json").write_text("{}")
    assert "is a repository: name the bundle" in icgan("bank", "remove", tmp_path, 3)[2]


def test_what_cannot_be_added_is_noticed_before_anything_is_embedded_or_stored(
    icgan, bundle, photos, tmp_path
):
    classes = tmp_path / "classes" / "no such class"
    classes.mkdir(parents=True)
    (photos / "0.png").rename(classes / "0.png")
    book = Manifest.read(bundle)
    said = {**dict(book.provenance.get("bank") or {}), "class_names": ["pear", "plum"]}
    dataclasses.replace(book, provenance={**book.provenance, "bank": said}).write(bundle)
    for sources, label, complaint in (
        ((photos,), (), "label: the instances of this bank have classes"),
        ((photos,), ("--label", 2), "label: '2' is no class; classes are pear, plum"),
        ((photos, classes.parent), ("--label", 0), "source: no class is called 'no such class'"),
        ((PHOTO, photos, tmp_path / "gone"), ("--label", 0), "from: "),
        ((photos, "bank"), ("--label", 0), "from: bank is what the bundle holds already"),
    ):
        status, printed, errors = icgan("bank", "add", bundle, *sources, *label, "--threads", 1)
        assert (status, printed) == (1, "")
        assert f"icgan: {complaint}" in errors
        assert "embed: " not in errors
    assert not (bundle / LOG_NAME).exists()
    assert icgan("bank", "add", bundle, photos, "--label", "plum", "--threads", 1)[0] == 0


def test_a_bundle_with_changes_is_not_handed_on_without_them(icgan, bundle):
    icgan("bank", "remove", bundle, 3)
    with pytest.raises(RequestError, match="has 1 changes of its bank: icgan bank compact"):
        registry.push(bundle, "localhost:1/demo:1")


def test_what_bank_did_before_it_does(icgan, bundle, photos, tmp_path):
    status, printed, _ = icgan("bank", bundle, "--from", photos, "--neighbours", 3, "--out", tmp_path / "out")
    assert (status, printed.split(",")[0]) == (0, f"wrote {tmp_path / 'out'}: 3 instances")
