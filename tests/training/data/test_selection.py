"""Pictures chosen by COCO's annotations, and squeezed to the square, as the published COCO-Stuff sets are."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icgan_runtime.files import sha256_of_file
from icgan_training.cli import main
from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.selection import Selection, select
from icgan_training.data.sources import open_source
from icgan_training.errors import DataError

NAMES = {1: "person", 2: "dog", 3: "grass", 183: "other"}
HALF, SPECK = [0, 0, 20, 20], [0, 0, 4, 3]  # of 40 x 20: half of it, and less than 2 %
# The objects of each picture: (category, box).
SHOWN = {
    "000.png": [(1, HALF)] * 2,
    "001.png": [(1, HALF), (2, HALF), (3, HALF)],
    "002.png": [(1, HALF), (2, HALF), (183, HALF)],
    "003.png": [(1, HALF), (2, HALF), (2, SPECK)],
    "004.png": [(3, HALF), (1, HALF), (1, HALF), (2, HALF)],
    "005.png": [(2, HALF)] * 3,
    "006.png": [(1, HALF)] * 9,
}


def described(shown: dict[str, list[tuple[int, list[int]]]]) -> dict[str, Any]:
    objects = [(name, *each) for name, found in shown.items() for each in found]
    ids = {name: 100 + number for number, name in enumerate(shown)}
    return {
        "images": [
            {"id": number, "file_name": name, "width": 40, "height": 20} for name, number in ids.items()
        ],
        "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
        "annotations": [
            {"image_id": ids[name], "category_id": category, "bbox": box} for name, category, box in objects
        ],
    }


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Seven pictures twice as wide as high, `objects.json`, and `train.json` of other pictures."""
    folder, rng = tmp_path / "val", np.random.default_rng(0)
    folder.mkdir()
    for name in [*SHOWN, "unknown.png"]:
        Image.fromarray(rng.integers(0, 256, (20, 40, 3), np.uint8)).save(folder / name)
    (tmp_path / "objects.json").write_text(json.dumps(described(SHOWN)))
    trained = {"900.png": [(2, HALF)] * 4, "901.png": [(1, HALF), (2, HALF)]}  # the second shows too few
    (tmp_path / "train.json").write_text(json.dumps(described(trained)))
    return folder


def chosen(pictures: Path, **asked: Any) -> list[str]:
    asked = {"annotations": (pictures.parent / "objects.json",)} | asked
    return list(select(open_source(pictures), Selection(**asked)).files)


def test_three_to_eight_objects_that_are_large_and_have_a_name(pictures: Path) -> None:
    assert chosen(pictures) == ["001.png", "004.png", "005.png"]
    assert chosen(pictures, objects=(2, 2)) == ["000.png", "002.png", "003.png"]
    assert chosen(pictures, least_share=0.0) == ["001.png", "003.png", "004.png", "005.png"]
    assert chosen(pictures, left_out="grass") == ["002.png", "004.png", "005.png"]


def test_objects_and_stuff_of_one_picture_add_up_over_files(pictures: Path) -> None:
    stuff = pictures.parent / "stuff.json"
    stuff.write_text(json.dumps(described({"000.png": [(3, HALF)]})))
    found = chosen(pictures, annotations=(pictures.parent / "objects.json", stuff))
    assert found == ["000.png", "001.png", "004.png", "005.png"]


def test_the_first_are_one_part_and_the_rest_another(pictures: Path) -> None:
    assert chosen(pictures, part=("first", 2)) == ["001.png", "004.png"]
    assert chosen(pictures, part=("rest", 2)) == ["005.png"]


def test_pictures_whose_categories_training_has_seen_together_and_others(pictures: Path) -> None:
    trained = {"trained_on": (pictures.parent / "train.json",)}
    assert chosen(pictures, class_sets="seen", **trained) == ["005.png"]
    assert chosen(pictures, class_sets="unseen", **trained) == ["001.png", "004.png"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"objects": (8, 3)}, "--objects is 8-3"),
        ({"least_share": 2.0}, "--object-share is 2"),
        ({"part": ("last", 2)}, "--part is last:2"),
        ({"class_sets": "seen"}, "--class-sets and --trained-on go together"),
        ({"objects": (20, 30)}, "none shows 20 to 30 objects as asked: widen --objects"),
    ],
)
def test_what_cannot_be_chosen_by_is_refused_with_the_fix(
    pictures: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        chosen(pictures, **asked)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not COCO's annotations"),
        ("{", "not COCO's annotations"),
        ('{"images": []}', "nothing is called 'categories'"),
        (json.dumps(described({"elsewhere.png": []})), "none of the 8 pictures is in there"),
        (json.dumps(described(SHOWN)).replace("[0, 0, 20, 20]", "[0, 0, 20]"), "not COCO's annotations"),
    ],
)
def test_a_file_of_something_else_is_named(pictures: Path, content: str, message: str) -> None:
    file = pictures.parent / "bad.json"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        chosen(pictures, annotations=(file,))
    with pytest.raises(DataError, match=r"absent\.json cannot be read"):
        chosen(pictures, annotations=(pictures.parent / "absent.json",))


def test_a_set_is_prepared_like_the_published_one_and_says_so(
    pictures: Path, encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "objects.json"
    command = [
        "prepare", pictures, "--preset", "icgan-stylegan2-coco-128", "--resolution", 32, "--neighbours", 1,
        "--encoder", encoder_file, "--annotations", file, "--part", "first:2", "--out", tmp_path / "data",
    ]  # fmt: skip
    assert main([str(word) for word in command]) == 0
    assert "2 of 8 pictures are taken, 7 of them are in --annotations" in capsys.readouterr().err
    data = PreparedDataset.open(tmp_path / "data")
    assert data.meta.crop == "squeeze"
    assert data.meta.selection == {
        "annotations": [{"name": "objects.json", "sha256": sha256_of_file(file)}],
        "objects": [3, 8],
        "least_share": 0.02,
        "left_out": "other",
        "part": "first:2",
        "class_sets": None,
        "trained_on": [],
    }
    assert [data.title(row) for row in range(2)] == ["001.png", "004.png"]
    whole = Image.open(pictures / "004.png").resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.images[1], np.asarray(whole))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--part", "first:2"], "--part goes with --annotations"),
        (["--annotations", "x.json", "--objects", "three"], "--objects is three, it must be LEAST-MOST"),
        (["--annotations", "x.json", "--part", "last"], "--part is last, it must be first:N"),
        (["--preset", "icgan-coco-129"], "did you mean icgan-coco-128"),
    ],
)
def test_options_that_say_nothing_are_refused(
    pictures: Path, more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", str(pictures), "--encoder", "resnet50", "--out", str(tmp_path / "data"), *more]
    with contextlib.suppress(SystemExit):  # of the parser
        assert main(command) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
