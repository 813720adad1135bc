"""What `prepare` can read: a folder of pictures, class folders, a CSV or Parquet list, or plain arrays."""

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.errors import MissingExtraError
from icgan_training.data.transforms import read_picture, square
from icgan_training.errors import DataError

MOST_CLASSES = 1_000_000
"""Integer labels count from 0; beyond this they are identifiers of something else."""
INTEGER = re.compile(r"-?[0-9]{1,18}")

SUFFIXES = {
    ".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip


@dataclass(frozen=True)
class SourceNote:
    """What is known of a set of pictures: `source.json` beside them, carried on into `dataset.json`."""

    name: str
    source: str = ""
    licence: str = "not stated"
    class_names: list[str] | None = None  # for arrays; class folders name themselves

    def write(self, folder: Path) -> None:
        """Write `source.json` into a folder of pictures."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        (folder / "source.json").write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Source:
    """A list of pictures in a fixed order: files under `root`, or the rows of an array."""

    note: SourceNote
    labels: NDArray[np.int64] | None  # [N]
    class_names: list[str] | None
    root: Path = Path()
    files: Sequence[str] = ()  # relative to root
    array: NDArray[np.uint8] | None = None  # [N, H, W, 3]

    def __len__(self) -> int:
        return len(self.files) if self.array is None else len(self.array)

    def name(self, row: int) -> str:
        """What a message calls a picture: its file, or its row in the array."""
        return f"row {row}" if self.array is not None else str(self.root / self.files[row])

    def read(self, row: int, resolution: int) -> NDArray[np.uint8]:
        """One picture [R, R, 3]; raises `DataError` naming a file that cannot be decoded."""
        if self.array is not None:
            return square(self.array[row], resolution)
        return read_picture(self.root / self.files[row], resolution)


def open_source(path: Path, *, use_labels: bool = True) -> Source:
    """Find out what `path` is and list its pictures.

    A folder with pictures at its top is a set without labels; a folder with pictures only in sub-folders has
    one class per sub-folder (`use_labels=False` ignores them). Sub-folders that start with `_` and all names
    that start with `.` are skipped. Raises `DataError` for what is none of these, is damaged or holds no
    pictures.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_file() and path.suffix.lower() in {".csv", ".parquet"}:
        source = _from_list(path)
    elif path.is_dir() and (path / "images.npy").exists():
        source = _from_arrays(path)
    elif path.is_dir():
        source = _from_folder(path)
    else:
        raise DataError(f"{path} is neither a folder nor a .csv or .parquet list")
    if len(source) == 0:
        sought = f" (looked for {', '.join(sorted(SUFFIXES))})" if path.is_dir() else ""
        raise DataError(f"{path} holds no pictures{sought}")
    if use_labels:
        return source
    return Source(source.note, None, None, source.root, source.files, source.array)


def _read_note(folder: Path) -> SourceNote:
    file = folder / "source.json"
    if not file.exists():
        return SourceNote(_printable(folder.resolve().name))
    try:
        note = SourceNote(**json.loads(file.read_bytes()))  # bytes may begin with a byte-order mark
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    for field, value in asdict(note).items():
        texts = (value or []) if field == "class_names" else [value]
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            wanted = "a list of names" if field == "class_names" else "text"
            raise DataError(f"{file}: {field} is {value!r}, expected {wanted}")
    return note


def _printable(name: str) -> str:
    """A file's name as JSON can hold it, whatever bytes it is made of."""
    return os.fsencode(name).decode(errors="replace")


def _pictures_below(folder: Path, prefix: str = "") -> Iterator[str]:
    """Relative paths of all pictures, each folder in name order."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.name.startswith("_"):  # of files cameras write it, for photos in Adobe RGB
                continue
            yield from _pictures_below(Path(entry.path), f"{prefix}{entry.name}/")
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield prefix + entry.name


def _from_folder(folder: Path) -> Source:
    files = list(_pictures_below(folder))
    note = _read_note(folder)
    if any("/" not in file for file in files):
        return Source(note, None, None, folder, files)
    folders = sorted({file.split("/", 1)[0] for file in files})
    index = {name: label for label, name in enumerate(folders)}
    labels = np.array([index[file.split("/", 1)[0]] for file in files], np.int64)
    return Source(note, labels, [_printable(name) for name in folders], folder, files)


def _from_arrays(folder: Path) -> Source:
    """`images.npy` uint8 [N, H, W, 3] and perhaps `labels.npy` [N]."""
    note = _read_note(folder)
    try:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels_file = folder / "labels.npy"
        labels = np.load(labels_file, allow_pickle=False) if labels_file.exists() else None
    except (ValueError, EOFError) as error:
        raise DataError(f"{folder}: images.npy or labels.npy is not a plain array: {error}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise DataError(
            f"{folder / 'images.npy'} is {images.dtype} {list(images.shape)}, expected uint8 [N, H, W, 3]"
        )
    if labels is None:
        return Source(note, None, None, array=images)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{labels_file} is {labels.dtype} {list(labels.shape)}, expected integers [N]")
    if len(labels) != len(images):
        raise DataError(f"{labels_file} has {len(labels)} rows, images.npy has {len(images)}")
    numbers, class_names = _integer_labels(labels.tolist(), note.class_names, labels_file)
    return Source(note, numbers, class_names, array=images)


def _from_list(path: Path) -> Source:
    """A table with the columns `path` (relative to the table, or absolute) and, optionally, `label`."""
    files, labels = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    note = SourceNote(_printable(path.stem), _printable(path.name))
    where, first = ("line", 2) if path.suffix.lower() == ".csv" else ("row", 0)
    for number, file in enumerate(files, start=first):
        if not isinstance(file, str) or not file:
            raise DataError(f"{path} {where} {number}: no path")
    if labels is None:
        return Source(note, None, None, path.parent, files)
    for number, label in enumerate(labels, start=first):
        if label is None or label == "" or label != label:  # NaN is how tables write "none"
            raise DataError(f"{path} {where} {number}: no label")
        if not isinstance(label, int | str):
            raise DataError(f"{path} {where} {number}: label {label!r} is neither a whole number nor text")
    if all(_is_integer(label) for label in labels):
        numbers, class_names = _integer_labels([int(label) for label in labels], None, path)
    else:
        class_names = sorted({str(label) for label in labels})
        index = {name: number for number, name in enumerate(class_names)}
        numbers = np.array([index[str(label)] for label in labels], np.int64)
    return Source(note, numbers, class_names, path.parent, files)


def _read_csv(path: Path) -> tuple[list[str], list[Any] | None]:
    files, labels = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte-order mark
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            for row in reader:
                files.append(row.get("path", ""))
                labels.append(row.get("label"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table in UTF-8: {error}") from error
    if "path" not in columns:
        raise DataError(f"{path} has the columns {', '.join(columns) or 'none'}; a column `path` is needed")
    return files, labels if "label" in columns else None


def _read_parquet(path: Path) -> tuple[list[str], list[Any] | None]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train") from error
    try:
        table = parquet.read_table(path)
    except ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from error
    columns = table.column_names
    if "path" not in columns:
        raise DataError(f"{path} has the columns {', '.join(columns)}; a column `path` is needed")
    files = table["path"].to_pylist()
    return files, table["label"].to_pylist() if "label" in columns else None


def _is_integer(label: object) -> bool:
    return isinstance(label, int) or (isinstance(label, str) and INTEGER.fullmatch(label) is not None)


def _integer_labels(
    labels: list[int], class_names: list[str] | None, origin: Path
) -> tuple[NDArray[np.int64], list[str]]:
    """Check integer labels against the names, or name the classes by their numbers."""
    highest, lowest = max(labels, default=-1), min(labels, default=0)
    if lowest < 0:
        raise DataError(f"{origin} row {labels.index(lowest)}: label {lowest} is negative")
    if highest >= MOST_CLASSES:
        raise DataError(f"{origin} row {labels.index(highest)}: label {highest}, but classes count from 0")
    if class_names is None:
        class_names = [str(number) for number in range(highest + 1)]
    elif highest >= len(class_names):
        raise DataError(
            f"{origin} row {labels.index(highest)}: label {highest} is outside the {len(class_names)} classes"
        )
    return np.array(labels, np.int64), class_names
