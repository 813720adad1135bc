"""`icgan bank`: the same model over other pictures, without torch and without an export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from icgan_runtime import Pipeline
from icgan_runtime.bundle.lookup import lookup_bytes
from icgan_runtime.bundle.manifest import Manifest
from icgan_runtime.search.novelty import outside_below
from tests.runtime.cli.common import PHOTO


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six pictures in two folders, and one that is none."""
    rng = np.random.default_rng(5)
    for number in range(6):
        place = tmp_path / "photos" / f"class {number % 2}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(place)
    (tmp_path / "photos" / "class 0" / "broken.jpg").write_bytes(b"no picture")
    return tmp_path / "photos"


def test_pictures_become_the_bank_of_a_bundle_that_verifies(icgan, tiny_bundle, photos, tmp_path):
    out = tmp_path / "mine"
    (photos / "LICENSE").write_text("CC-BY-4.0\nand so on\n")
    status, printed, errors = icgan("bank", tiny_bundle, "--from", photos, "--neighbours", 3, "--out", out)
    assert (status, printed.split(",")[0]) == (0, f"wrote {out}: 6 instances")
    assert "left out of the bank" in errors
    status, printed, _ = icgan("info", "--verify", out)
    assert (status, printed.splitlines()[-1].endswith(" 0 failed")) == (0, True)
    assert "lookup.onnx on samples: ids agree" in printed
    with Pipeline.load(out) as mine, Pipeline.load(tiny_bundle) as before:
        for file in photos.glob("*/?.png"):
            near = mine.nearest(file, k=1)[0]
            assert near.names == (f"{file.parent.name}/{file.name}",)
            assert near.classes == (file.parent.name,)
        np.testing.assert_array_equal(mine.generate(PHOTO, n=2).images, before.generate(PHOTO, n=2).images)
        assert mine.bank.thumbnails is not None
        assert mine.bank.stated_limit == outside_below(mine.bank)
        assert (mine.bank.source, mine.bank.licence) == ("photos", "CC-BY-4.0")
        assert mine.generate(PHOTO).neighbours.ids.shape == (3,)


def test_names_and_thumbnails_can_stay_out(icgan, tiny_bundle, photos, tmp_path):
    out = tmp_path / "mine"
    assert icgan("bank", tiny_bundle, "--from", photos, "--no-names", "--thumbnails", 0, "--out", out)[0] == 0
    with Pipeline.load(out) as pipe:
        assert repr(pipe.bank) == "Bank(6 instances × 12, labels)"
    assert not list(out.rglob("name*"))


def test_embeddings_alone_become_a_bank(icgan, tiny_bundle, photos, tmp_path):
    rows, names, out = tmp_path / "rows.npy", tmp_path / "names.txt", tmp_path / "mine"
    files = sorted(photos.glob("*/?.png"))
    icgan("embed", tiny_bundle, *files, "--out", rows)
    names.write_text("".join(f"{file.name}\n" for file in files))
    command = ["bank", tiny_bundle, "--from", rows, "--out", out]
    assert icgan(*command, "--names", names)[0] == 0
    with Pipeline.load(out) as pipe:
        assert pipe.nearest(files[2])[0].title(0) == files[2].name
        assert pipe.bank.thumbnails is None
    names.write_text("one\n")
    status, _, complaint = icgan(*command, "--names", names)
    assert (status, complaint) == (1, f"icgan: names: {names} has 1 lines for 6 embeddings\n")


def test_a_few_instances_are_spread_over_all(icgan, tiny_bundle, tmp_path):
    """Three groups of embeddings, three instances: one of each."""
    groups = np.eye(12)[:3].repeat(20, axis=0) + 0.05 * np.random.default_rng(0).normal(size=(60, 12))
    rows = groups / np.linalg.norm(groups, axis=1, keepdims=True)
    np.save(tmp_path / "rows.npy", rows.astype(np.float32))
    out = tmp_path / "mine"
    assert icgan("bank", tiny_bundle, "--from", tmp_path / "rows.npy", "--instances", 3, "--out", out)[0] == 0
    with Pipeline.load(out) as pipe:
        assert sorted(pipe.bank.ids // 20) == [0, 1, 2]


def test_labels_are_the_models_classes_by_the_names_of_the_folders(icgan, labelled_bundle, photos, tmp_path):
    out = tmp_path / "mine"
    (photos / "class 0").rename(photos / "class 2")
    assert icgan("bank", labelled_bundle, "--from", photos, "--out", out)[0] == 0
    with Pipeline.load(out) as pipe:
        assert set(pipe.bank.labels.tolist()) == {1, 2}
        assert pipe.nearest(photos / "class 2" / "2.png", k=1)[0].classes == ("class 2",)
    (photos / "class 2").rename(photos / "cats")
    before = sorted(out.rglob("*"))
    status, _, complaint = icgan("bank", labelled_bundle, "--from", photos, "--out", out)
    assert (status, "the model has no class 'cats'" in complaint) == (1, True)
    assert sorted(out.rglob("*")) == before, "what was there is still there"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "absent", "--out", "new"], "from: absent is neither"),
        (["--from", "photos", "--out", "BUNDLE"], "is the bundle itself: name another folder"),
        (["--from", "photos", "--out", "photos"], "out: photos exists and is no bundle"),
        (["--from", "photos", "--out", "new", "--neighbours", 0], "neighbours: 0, expected 1..1024"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    icgan, tiny_bundle, photos, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    status, _, complaint = icgan("bank", tiny_bundle, *[tiny_bundle if w == "BUNDLE" else w for w in words])
    assert (status, message in complaint, complaint.count("\n")) == (1, True, 1)
    assert not (tmp_path / "new").exists()


def test_a_data_set_that_was_prepared_becomes_a_bank_with_its_names(icgan, tiny_bundle, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    model = Manifest.read(tiny_bundle).model
    with Pipeline.load(tiny_bundle) as pipe:
        shutil.copyfile(tiny_bundle / "bank" / "embeddings.npy", data / "embeddings.npy")
        assert pipe.bank.names is not None
        np.save(data / "names.npy", pipe.bank.names.text)
        np.save(data / "name_ends.npy", pipe.bank.names.ends)
    np.save(data / "images.npy", np.zeros((20, 8, 8, 3), np.uint8))
    about = {"count": 20, "encoder": {"sha256": model.encoder.sha256}, "class_names": None}
    (data / "dataset.json").write_text(json.dumps(about))
    assert icgan("bank", tiny_bundle, "--from", data, "--out", tmp_path / "mine")[0] == 0
    with Pipeline.load(tmp_path / "mine") as mine, Pipeline.load(tiny_bundle) as before:
        assert mine.nearest(PHOTO, k=5)[0].names == before.nearest(PHOTO, k=5)[0].names
        assert mine.bank.thumbnails.shape == (20, 8, 8, 3)


def test_the_lookup_graph_is_a_valid_one_that_onnx_reads():
    rows = np.eye(4, dtype=np.float32)[:3]
    data = lookup_bytes(rows, np.array([2, 300, 2**40]), 2, 18, {"icgan.role": "lookup"})
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "TopK", "Gather"]
    assert {prop.key: prop.value for prop in model.metadata_props} == {"icgan.role": "lookup"}


@pytest.mark.parametrize("command", ["bank", "index"])
def test_a_place_that_cannot_be_written_is_one_line(icgan, tiny_bundle, photos, tmp_path, command):
    """A folder below a file, a file where a folder lies; a read-only file system goes the same way."""
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    words = ["bank", bundle, "--from", photos, "--out", bundle / "manifest.json" / "mine"]
    if command == "index":
        pytest.importorskip("faiss")
        (bundle / "bank" / "index_axes.npy").mkdir()
        words = ["index", bundle]
    status, _, errors = icgan(*words)
    assert status == 1
    assert errors.splitlines()[-1].startswith("icgan: [Errno ")
    assert "Traceback" not in errors
