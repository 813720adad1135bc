"""Instances in a fixed order, read in ranges: pictures of a folder, a bank, or stored embeddings."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import files, images
from icgan_runtime.bundle import arrays
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.chain import Chain
from icgan_runtime.console import tell
from icgan_runtime.errors import BundleError, DecodeError, RequestError
from icgan_runtime.request import embedding_rows

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

LISTING = "instances.jsonl"
BANK = "bank"
_LINES_APART = 1024  # places in the listing that are remembered; from there it is read line by line
_EMBEDDED_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Instances:
    """Some instances of a source, without those that could not be read."""

    rows: list[int]  # their numbers in the source
    ids: list[str]
    embeddings: F32  # [n, D], unit rows
    labels: I64 | None  # [n], where the source knows them
    skipped: list[tuple[str, str]]  # ids of the others, and what was wrong


class Source(Protocol):
    """Where instances come from."""

    @property
    def kind(self) -> str:
        """What kind of instances."""

    @property
    def sha256(self) -> str:
        """SHA-256 of what the instances are."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of the labels, where they are known."""

    def __len__(self) -> int: ...

    def read(self, rows: range, chain: Chain) -> Instances:
        """The instances of some rows."""


@dataclass(frozen=True, eq=False)
class Stored:
    """Instances whose embeddings are given; the arrays may be mapped from disk."""

    kind: str
    sha256: str
    embeddings: F32  # [N, D]
    ids: I64 | None  # [N]; None: the row numbers
    labels: I64 | None  # [N]
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    def read(self, rows: range, chain: Chain) -> Instances:
        some = slice(rows.start, rows.stop)
        held = embedding_rows(_copied(self.embeddings, some), chain.model.embedding_dim)
        numbers = list(rows) if self.ids is None else self.ids[some].tolist()
        labels = None if self.labels is None else np.array(self.labels[some])
        return Instances(list(rows), [str(number) for number in numbers], held, labels, [])


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures below a folder, in the order of a listing on the disk: its length costs no memory."""

    folder: Path
    listing: Path
    sha256: str
    class_names: tuple[str, ...] | None  # folders at the top, where all pictures lie in such
    places: Sequence[int]  # of every _LINES_APART-th line
    count: int
    stray: str | None = None  # the first picture beside folders of pictures, which are no classes therefore
    kind: str = "folder"

    def __len__(self) -> int:
        return self.count

    def read(self, rows: range, chain: Chain) -> Instances:
        names = self.names(rows)
        how = chain.model.preprocessing
        kept: list[int] = []
        skipped: list[tuple[str, str]] = []
        embeddings: list[F32] = []
        pixels: list[images.Picture] = []
        for i, name in enumerate(names):
            try:
                pixels.append(images.for_encoder(self.folder / name, how))
                kept.append(i)
            except DecodeError as error:
                skipped.append((name, error.problem))
            if pixels and (len(pixels) == _EMBEDDED_AT_ONCE or i + 1 == len(names)):
                embeddings.append(chain.embed(pixels))
                pixels = []
        width = chain.model.embedding_dim
        held = np.concatenate(embeddings) if embeddings else np.empty((0, width), np.float32)
        return Instances(
            [rows[i] for i in kept],
            [names[i] for i in kept],
            held,
            self.labels([names[i] for i in kept]),
            skipped,
        )

    def names(self, rows: range) -> list[str]:
        """Paths below the folder of some rows."""
        place, first = self.places[rows.start // _LINES_APART], rows.start // _LINES_APART * _LINES_APART
        names = []
        with self.listing.open("rb") as listing:
            listing.seek(place)
            for number, line in enumerate(listing, first):
                if number >= rows.stop:
                    break
                if number >= rows.start:
                    names.append(str(json.loads(line)[0]))
        return names

    def labels(self, names: list[str]) -> I64 | None:
        """The class of pictures by their names, None where the folders are no classes."""
        if self.class_names is None:
            return None
        return np.array([self.class_names.index(_shown(name.split("/", 1)[0])) for name in names], np.int64)


def open_source(wanted: str, chain: Chain, out: Path, *, list_anew: bool) -> Source:
    """The instances that --from names. Raises RequestError for what is none, or of another encoder.

    A folder of pictures is listed into `out` first, unless another worker has done that.
    """
    path = Path(wanted)
    if wanted == BANK and not path.exists():
        return _of_bank(chain.bank)
    if path.suffix == ".npy":
        return _of_array(path, chain.model)
    if (path / "dataset.json").is_file():
        return _of_dataset(path, chain.model)
    if not path.is_dir():
        what = "a folder of pictures or of icgan-train prepare, a .npy file of embeddings, or bank"
        raise RequestError("from", f"{wanted} is neither {what}")
    if out.resolve().is_relative_to(path.resolve()):
        raise RequestError("out", f"{out} lies in {path}, whose pictures are read: name a folder outside")
    if not list_anew:
        return read_listing(path, out / LISTING)
    for remark in list_pictures(path, out / LISTING):
        tell(remark)
    found = read_listing(path, out / LISTING)
    if found.stray is not None:
        tell(
            f"{path}: {_shown(found.stray)} lies beside folders of pictures, so the folders are no classes "
            "and nothing has a label; move it if they are classes"
        )
    return found


def list_pictures(folder: Path, listing: Path) -> list[str]:
    """Write path and size of every picture below a folder, one JSON line each, folder by folder by name.

    Names that begin with `.` and folders that begin with `_` are left out; links to folders are not followed.
    Returns what whoever gave the folder should know, a line each.
    """
    left_out: Counter[str] = Counter()
    try:
        listing.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_file(listing) as partial, partial.open("w", encoding="ascii") as written:
            for name, size in _walk(folder, "", left_out):
                written.write(json.dumps([name, size]) + "\n")
    except OSError as error:
        raise RequestError("out", f"{listing} cannot be written ({error.strerror})") from None
    if not left_out:
        return []
    named = ", ".join(f"{count} of {_shown(kind)}" for kind, count in left_out.most_common(8))
    return [f"{folder}: not looked at: {named}"]


def read_listing(folder: Path, listing: Path) -> Pictures:
    """The pictures of a listing. RequestError where it is missing or empty."""
    places, count, place = [], 0, 0
    classes: set[str] = set()
    stray: str | None = None
    hashed = hashlib.sha256()
    try:
        with listing.open("rb") as lines:
            for count, line in enumerate(lines, 1):
                if (count - 1) % _LINES_APART == 0:
                    places.append(place)
                place += len(line)
                hashed.update(line)
                first, slash, _ = str(json.loads(line)[0]).partition("/")
                if slash:
                    classes.add(_shown(first))
                elif stray is None:
                    stray = first
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RequestError(
            "out", f"{listing} cannot be read ({error}): start again in another folder"
        ) from None
    if not count:
        raise RequestError("from", f"{folder} holds no pictures ({', '.join(sorted(images.SUFFIXES))})")
    names = tuple(sorted(classes)) if stray is None else None
    return Pictures(
        folder, listing, hashed.hexdigest(), names, places, count, stray=stray if classes else None
    )


def _walk(folder: Path, prefix: str, left_out: Counter[str]) -> Iterator[tuple[str, int]]:
    """Pictures, and in `left_out` how many of what else is there."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise RequestError("from", f"{folder} cannot be read ({error.strerror})") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith("_"):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", left_out)
            continue
        ending = os.path.splitext(entry.name)[1].lower()
        try:
            kind, size = stat.S_IFMT(entry.stat().st_mode), entry.stat().st_size
        except OSError:  # a link that leads nowhere, or to itself
            left_out["links that lead nowhere"] += 1
            continue
        if kind == stat.S_IFDIR:
            left_out["links to folders"] += 1
        elif ending in images.SUFFIXES and kind == stat.S_IFREG:
            yield prefix + entry.name, size
        else:
            left_out[ending or "no ending"] += 1


def _shown(name: str) -> str:
    """A name as JSON and terminals can hold it."""
    text = os.fsencode(name).decode(errors="replace")
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _of_bank(bank: Bank | None) -> Stored:
    if bank is None:
        raise RequestError("from", "a server keeps its bank to itself: give a bundle, or .npy embeddings")
    parts = [bank.embeddings, bank.ids] + ([] if bank.labels is None else [bank.labels])
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(np.ascontiguousarray(part).data.cast("B"))
    return Stored(BANK, hashed.hexdigest(), bank.embeddings, bank.ids, bank.labels)


def _of_array(path: Path, model: Model) -> Stored:
    embeddings = _mapped(path, "float32", (None, model.embedding_dim))
    if not len(embeddings):
        raise RequestError("from", f"{path} holds no rows")
    return Stored("embeddings", files.sha256_of_file(path), embeddings, None, None)


def _of_dataset(folder: Path, model: Model) -> Stored:
    try:
        about = json.loads(files.read_bounded(folder / "dataset.json", 64 << 20))
        count, encoder, names = int(about["count"]), str(about["encoder"]["sha256"]), about["class_names"]
    except (BundleError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise RequestError("from", f"{folder}/dataset.json cannot be read ({error})") from None
    if encoder != model.encoder.sha256:
        raise RequestError(
            "from",
            f"{folder} was prepared with another encoder than {model.encoder.name} of {model.name}: prepare "
            "it again with that one, or give the folder of its pictures",
        )
    embeddings = _mapped(folder / "embeddings.npy", "float32", (count, model.embedding_dim))
    labels = _mapped(folder / "labels.npy", "int64", (count,)) if names is not None else None
    named = None if names is None else tuple(_shown(str(name)) for name in names)
    return Stored("dataset", files.sha256_of_file(folder / "embeddings.npy"), embeddings, None, labels, named)


def _copied(rows: NDArray[Any], some: slice) -> NDArray[Any]:
    """Some rows; the pages of a mapped file are given back, or a long run would have all of it at last."""
    copy = np.array(rows[some])
    if isinstance(base := getattr(rows, "base", None), mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)
    return copy


def _mapped(path: Path, dtype: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    try:
        return arrays.require(arrays.map_npy(path, str(path)), str(path), dtype, shape, "the model")
    except OSError as error:
        raise RequestError("from", f"{path} cannot be read ({error.strerror})") from None
    except BundleError as error:
        raise RequestError("from", str(error)) from None
