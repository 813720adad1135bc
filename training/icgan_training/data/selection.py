"""Which pictures of a source are taken, by COCO's annotations: how many objects they show, and which.

The published COCO-Stuff sets hold pictures with three to eight objects, none of them smaller than 2 % of the
picture or of the category `other`; the first 1,024 of the validation pictures that remain are one part, the
rest another, and pictures for evaluation are divided by whether training had seen their set of categories.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icgan_runtime.files import sha256_of_file
from icgan_training.data.sources import Source
from icgan_training.errors import DataError

PARTS = ("first", "rest")
CLASS_SETS = ("seen", "unseen")


@dataclass(frozen=True)
class Selection:
    """What `--annotations` and the options that go with it say. Raises `DataError` for what cannot be."""

    annotations: tuple[Path, ...]  # COCO's JSON of objects, or of objects and of stuff
    objects: tuple[int, int] = (3, 8)  # least and most that a picture may show
    least_share: float = 0.02  # of the picture; smaller boxes are not counted
    left_out: str = "other"  # the category that is not counted
    part: tuple[str, int] | None = None  # one of PARTS, and the length of the first
    class_sets: str | None = None  # one of CLASS_SETS
    trained_on: tuple[Path, ...] = ()  # annotations of the training pictures, which `class_sets` is about

    def __post_init__(self) -> None:
        least, most = self.objects
        if not 0 <= least <= most:
            raise DataError(f"--objects is {least}-{most}, it must be LEAST-MOST, as 3-8")
        if not 0 <= self.least_share < 1:
            raise DataError(f"--object-share is {self.least_share}, it must be at least 0 and below 1")
        if self.part is not None and (self.part[0] not in PARTS or self.part[1] < 1):
            raise DataError(f"--part is {self.part[0]}:{self.part[1]}, not first:N or rest:N, N from 1")
        if (self.class_sets is not None) != bool(self.trained_on):
            raise DataError("--class-sets and --trained-on go together: give both, or neither")

    def describe(self) -> dict[str, Any]:
        """What `dataset.json` keeps of it."""
        return {
            "annotations": [_described(file) for file in self.annotations],
            "objects": list(self.objects),
            "least_share": self.least_share,
            "left_out": self.left_out,
            "part": None if self.part is None else f"{self.part[0]}:{self.part[1]}",
            "class_sets": self.class_sets,
            "trained_on": [_described(file) for file in self.trained_on],
        }


def _described(file: Path) -> dict[str, str]:
    return {"name": file.name, "sha256": sha256_of_file(file)}


def select(source: Source, selection: Selection) -> Source:
    """The pictures of a source that a selection takes, in their order. Raises `DataError` for none."""
    if not source.files:
        raise DataError("--annotations goes with pictures in files: a folder, a list, or a storage's")
    shown = _categories(selection.annotations, selection)
    names = [file.rpartition("/")[2] for file in source.files]
    known = sum(name in shown for name in names)
    if known == 0:
        raise DataError(
            f"--annotations {_listed(selection.annotations)}: none of the {len(names)} pictures is in there"
            f" ({names[0]}, ...): give the annotations of these pictures"
        )
    rows = [row for row, name in enumerate(names) if _counts(shown.get(name), selection)]
    if selection.part is not None:
        which, length = selection.part
        rows = rows[:length] if which == "first" else rows[length:]
    if selection.class_sets is not None:
        trained = _categories(selection.trained_on, selection)
        seen = {frozenset(found) for found in trained.values() if _counts(found, selection)}
        wanted = selection.class_sets == "seen"
        rows = [row for row in rows if (frozenset(shown[names[row]]) in seen) == wanted]
    if not rows:
        raise DataError(
            f"--annotations {_listed(selection.annotations)}: of {known} pictures none shows"
            f" {selection.objects[0]} to {selection.objects[1]} objects as asked: widen --objects or --part"
        )
    remark = f"{len(rows)} of {len(names)} pictures are taken, {known} of them are in --annotations"
    return replace(
        source,
        files=[source.files[row] for row in rows],
        labels=None if source.labels is None else source.labels[rows],
        remarks=[*source.remarks, remark],
    )


def _counts(found: Sequence[int] | None, selection: Selection) -> bool:
    return found is not None and selection.objects[0] <= len(found) <= selection.objects[1]


def _categories(files: Iterable[Path], selection: Selection) -> dict[str, list[int]]:
    """The categories of the objects that count in each picture, by its file name, an entry an object."""
    shown: dict[str, list[int]] = {}
    for file in files:
        try:
            content = json.loads(file.read_bytes())
            pictures = {
                each["id"]: (str(each["file_name"]), each["width"] * each["height"])
                for each in content["images"]
            }
            left_out = {each["id"] for each in content["categories"] if each["name"] == selection.left_out}
            for name, _ in pictures.values():
                shown.setdefault(name, [])
            for each in content["annotations"]:
                name, pixels = pictures[each["image_id"]]
                _, _, width, height = each["bbox"]
                if width * height > selection.least_share * pixels and each["category_id"] not in left_out:
                    shown[name].append(int(each["category_id"]))
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error}") from error
        except KeyError as error:
            raise DataError(f"{file} is not COCO's annotations: nothing is called {error}") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{file} is not COCO's annotations: {error}") from error
    return shown


def _listed(files: Iterable[Path]) -> str:
    return ", ".join(file.name for file in files)
