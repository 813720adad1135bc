"""What `prepare` can read: folders of pictures, class folders, lists, plain arrays, and containers.

Containers (HDF5, WebDataset, tables of pictures) have files of their own; see `containers`.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.identity import CENTRE
from icgan_runtime.images import SUFFIXES
from icgan_runtime.names import Names, below_common_folder
from icgan_training.data.containers import Container
from icgan_training.data.hdf5 import Hdf5
from icgan_training.data.lists import read_csv, read_parquet
from icgan_training.data.remote import Remote
from icgan_training.data.tables import Table, holds_pictures, open_parquet, open_saved
from icgan_training.data.transforms import decode_picture, read_picture, square
from icgan_training.data.webdataset import Shards
from icgan_training.errors import DataError

MOST_CLASSES = 1_000_000
"""Integer labels count from 0; beyond this they are identifiers of something else."""
INTEGER = re.compile(r"-?[0-9]{1,18}")


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
    """A list of pictures in a fixed order: files under `root`, the rows of an array, or a container's."""

    note: SourceNote
    labels: NDArray[np.int64] | None  # [N]
    class_names: list[str] | None
    root: Path = Path()
    files: Sequence[str] = ()  # relative to root
    store: Remote | None = None  # where the files lie, if not on a disk; `root` means nothing then
    array: NDArray[np.uint8] | None = None  # [N, H, W, 3]
    container: Container | None = None
    remarks: Sequence[str] = ()  # what whoever prepares it should know, a line each
    crop: str = CENTRE  # how its pictures become square

    def __len__(self) -> int:
        if self.container is not None:
            return len(self.container)
        return len(self.files) if self.array is None else len(self.array)

    def name(self, row: int) -> str:
        """What a message calls a picture: its file, or its row in the array."""
        if self.container is not None:
            return self.container.name(row)
        if self.store is not None:
            return f"{self.store.url}/{self.files[row]}"
        return f"row {row}" if self.array is not None else str(self.root / self.files[row])

    def names(self, rows: NDArray[np.int64]) -> Names | None:
        """What the pictures of some rows are called: files below the folder; None where none has a name."""
        if self.container is not None:
            found = [self.container.called(int(row)) for row in rows]
        else:
            files = below_common_folder(self.files)
            found = [files[row] for row in rows] if files else []
        return Names.of(found) if any(found) else None

    def read(self, row: int, resolution: int) -> NDArray[np.uint8]:
        """One picture [R, R, 3]; raises `DataError` naming a file that cannot be decoded."""
        if self.container is not None:
            return self.container.read(row, resolution, self.crop)
        if self.array is not None:
            return square(self.array[row], resolution, self.crop)
        if self.store is not None:
            return decode_picture(self.store.read(self.files[row]), self.name(row), resolution, self.crop)
        return read_picture(self.root / self.files[row], resolution, self.crop)

    def part(self, rows: slice) -> "Source | None":
        """Some pictures alone, small enough to be sent, without labels; None where the file is the list."""
        if self.container is not None or self.array is not None:
            return None
        note = SourceNote(self.note.name)
        return replace(self, note=note, labels=None, class_names=None, files=self.files[rows], remarks=())


def listing_sha256(source: Source) -> str:
    """Identity of what is listed: names (or the shape of the array) and labels, in order."""
    digest = hashlib.sha256()
    for file in source.files:
        digest.update(file.encode("utf-8", "surrogateescape") + b"\0")
    if source.array is not None:
        digest.update(str(source.array.shape).encode())
    if source.container is not None:
        for part in source.container.identity():
            digest.update(part + b"\0")
    if source.labels is not None:
        digest.update(source.labels.tobytes())
    return digest.hexdigest()


def open_source(given: Path | str, *, use_labels: bool = True) -> Source:
    """Find out what a path or URL is and list its pictures.

    A folder with pictures at its top is a set without labels; a folder with pictures only in sub-folders has
    one class per sub-folder (`use_labels=False` ignores them). Sub-folders that start with `_` and all names
    that start with `.` are skipped; a folder is visited once, whatever links to it. Files and folders of
    HDF5, WebDataset, Parquet and `datasets` are containers. Raises `DataError` for what is none of these, is
    damaged or holds no pictures.
    """
    path = given if "://" in str(given) else Path(given)
    if isinstance(path, str):
        source = _from_storage(Remote(path), use_labels)
    elif not path.exists():
        raise DataError(f"{path} does not exist")
    else:
        source = _from_directory(path, use_labels) if path.is_dir() else _from_file(path)
    if len(source) == 0:
        of_files = isinstance(path, str) or path.is_dir()
        sought = f" (looked for {', '.join(sorted(SUFFIXES))})" if of_files else ""
        rest = "".join(f"; {remark}" for remark in source.remarks)
        raise DataError(f"{path} holds no pictures{sought}{rest}")
    return source if use_labels else replace(source, labels=None, class_names=None)


def _from_file(path: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix == ".parquet" and holds_pictures(path):
        return _contained(path, open_parquet(path, [path]), "Parquet with pictures")
    if suffix in {".csv", ".parquet"}:
        return _from_list(path)
    if suffix in {".hdf5", ".h5"}:
        return _contained(path, Hdf5(path), "HDF5")
    if suffix == ".tar":
        return _contained(path, Shards([path]), "a WebDataset shard")
    raise DataError(
        f"{path} is neither a folder nor a .csv or .parquet list, nor a .hdf5, .tar or .parquet with pictures"
    )


def _from_directory(path: Path, use_labels: bool) -> Source:
    if (path / "images.npy").exists():
        return _from_arrays(path)
    if (path / "dataset_dict.json").exists():
        splits = sorted(folder.name for folder in path.iterdir() if (folder / "state.json").exists())
        raise DataError(f"{path} is a set of data sets: name one of them, {', '.join(splits)}")
    if (path / "state.json").exists() and (path / "dataset_info.json").exists():
        return _contained(path, open_saved(path), "a folder of datasets' save_to_disk")
    source = _from_folder(path, use_labels)
    if len(source):
        return source
    for pattern, form in (("*.tar", "WebDataset shards"), ("*.parquet", "Parquet with pictures")):
        for folder in (path, path / "data"):
            files = sorted(folder.glob(pattern))
            if files and form.startswith("Web"):
                return _contained(path, Shards(files), f"{len(files)} {form}")
            if files:
                files = _one_split(path, files)
                return _contained(path, open_parquet(path, files), f"{len(files)} files of {form}")
    return source


def _one_split(path: Path, files: list[Path]) -> list[Path]:
    """Hugging Face names files SPLIT-00000-of-00002.parquet; a data set is one split."""
    splits = sorted({file.name.partition("-")[0].removesuffix(".parquet") for file in files})
    if len(splits) > 1:
        raise DataError(
            f"{path} holds several tables ({', '.join(splits)}): give one file, or a folder with one of them"
        )
    return files


def _contained(path: Path, container: Hdf5 | Shards | Table, form: str) -> Source:
    note = _read_note(path) if path.is_dir() else SourceNote(_printable(path.stem), _printable(path.name))
    return _listed(note, container, form, path)


def _listed(note: SourceNote, container: Hdf5 | Shards | Table, form: str, path: Path | str) -> Source:
    remarks = [f"{path}: {form}, {len(container)} pictures", *container.notes]
    if container.labels is None:
        return Source(note, None, None, container=container, remarks=remarks)
    named = container.class_names if isinstance(container, Table) else None
    labels, names = _integer_labels(container.labels, note.class_names or named, path)
    return Source(note, labels, names, container=container, remarks=remarks)


def _read_note(folder: Path) -> SourceNote:
    file = folder / "source.json"
    name = _printable(folder.resolve().name)
    return _parse_note(file.read_bytes(), str(file)) if file.exists() else SourceNote(name)


def _parse_note(data: bytes, file: str) -> SourceNote:
    try:
        note = SourceNote(**json.loads(data))  # bytes may begin with a byte-order mark
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    for key, value in asdict(note).items():
        texts = (value or []) if key == "class_names" else [value]
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            wanted = "a list of names" if key == "class_names" else "text"
            raise DataError(f"{file}: {key} is {value!r}, expected {wanted}")
    return note


def _printable(name: str) -> str:
    """A file's name as JSON can hold it, whatever bytes it is made of."""
    return os.fsencode(name).decode(errors="replace")


# what lies beside pictures and needs no word
PAPERS = frozenset(("COPYING", "LICENCE", "LICENSE", "NOTICE", "README"))


@dataclass
class _Walk:
    """Pictures below a folder, by relative path, each folder in name order and once."""

    files: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # endings of files that are not looked at
    links: list[str] = field(default_factory=list)  # to folders that are visited anyway
    seen: set[tuple[int, int]] = field(default_factory=set)

    def visit(self, folder: Path, root: Path, prefix: str = "") -> None:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                if entry.name.startswith("_"):  # of files cameras write it, for photos in Adobe RGB
                    continue
                real = Path(entry.path).resolve()
                place = entry.stat().st_dev, entry.stat().st_ino
                inside = real.is_relative_to(root) or root.is_relative_to(real)
                if place in self.seen or (entry.is_symlink() and inside):
                    self.links.append(prefix + entry.name)
                else:
                    self.seen.add(place)
                    self.visit(Path(entry.path), root, f"{prefix}{entry.name}/")
            elif (ending := os.path.splitext(entry.name)[1].lower()) in SUFFIXES:
                self.files.append(prefix + entry.name)
            elif prefix + entry.name != "source.json" and Path(entry.name).stem.upper() not in PAPERS:
                self.others[ending or "no ending"] += 1

    def remarks(self, folder: Path | str) -> list[str]:
        said = []
        if self.others:
            named = ", ".join(f"{count} of {ending}" for ending, count in self.others.most_common(8))
            said.append(f"{folder}: not looked at, because no ending of pictures: {_printable(named)}")
        if self.links:
            named = _printable(", ".join(self.links[:8]))
            said.append(f"{folder}: links to folders that are read where they lie: {named}")
        return said


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _from_folder(folder: Path, use_labels: bool) -> Source:
    walk = _Walk()
    walk.visit(folder, folder.resolve())
    return _of_files(folder, walk.files, walk.remarks(folder), _read_note(folder), use_labels)


def _from_storage(store: Remote, use_labels: bool) -> Source:
    """A folder of pictures in an object storage, or of WebDataset shards where it holds no pictures."""
    walk = _Walk()
    tables, shards = 0, []
    for name in store.walk():
        ending = os.path.splitext(name)[1].lower()
        if ending in SUFFIXES:
            walk.files.append(name)
        elif name != "source.json":
            walk.others[ending or "no ending"] += 1
            tables += ending in (".parquet", ".npy", ".hdf5", ".h5", ".arrow")
            if ending == ".tar" and name.count("/") <= name.startswith("data/"):
                shards.append(name)
    said = store.note()
    note = _parse_note(said, f"{store.url}/source.json") if said else SourceNote(_printable(store.name))
    if not walk.files and shards:
        container = Shards([store.file(name) for name in shards])
        return _listed(note, container, f"{len(shards)} WebDataset shards", store.url)
    if not walk.files and tables:
        raise DataError(f"{store.url}: tables and arrays are read from a disk only: copy them to one")
    source = _of_files(Path(), walk.files, walk.remarks(store.url), note, use_labels)
    return replace(source, store=store)


def _of_files(
    folder: Path, files: list[str], remarks: list[str], note: SourceNote, use_labels: bool
) -> Source:
    """Files below a folder, in classes where all of them lie in sub-folders."""
    top = [file for file in files if "/" not in file]
    below = sorted({file.split("/", 1)[0] for file in files} - set(top))
    if top and below and use_labels:
        raise DataError(
            f"{note.name if folder == Path() else folder} has {len(top)} pictures ({_printable(top[0])}, ...)"
            f" beside {len(below)} folders of pictures: move them if the folders are classes, or prepare it"
            " with --no-labels"
        )
    if top or not below:
        return Source(note, None, None, folder, files, remarks=remarks)
    index = {name: label for label, name in enumerate(below)}
    labels = np.array([index[file.split("/", 1)[0]] for file in files], np.int64)
    return Source(note, labels, [_printable(name) for name in below], folder, files, remarks=remarks)


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
    files, labels = read_csv(path) if path.suffix.lower() == ".csv" else read_parquet(path)
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


def _is_integer(label: object) -> bool:
    return isinstance(label, int) or (isinstance(label, str) and INTEGER.fullmatch(label) is not None)


def _integer_labels(
    labels: list[int], class_names: list[str] | None, origin: Path | str
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
