"""Instances added to a bundle's bank, and taken out of it, while others read it (docs/banks.md)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.banks.source import Found, open_source, read_all
from icgan_runtime.bundle import arrays, changes
from icgan_runtime.bundle.bank import first_not_unit, label_names
from icgan_runtime.bundle.changes import Changes, CompactedError, Record, State
from icgan_runtime.bundle.living import Living, open_living
from icgan_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import BindingError, BundleError, RequestError
from icgan_runtime.names import Names
from icgan_runtime.pipeline import Pipeline
from icgan_runtime.synthesize.sources import Source, Stored

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]

AT_ONCE = 256  # instances of a record: what is promised, or lost, together
_SAME = 1 - 1e-4  # a score from which two embeddings are of one picture
_GREY = 200  # where a thumbnail belongs and there is no picture


@dataclass(frozen=True)
class Added:
    """What has been stored for good: ids and names, and the state of the bank since."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    state: State
    known: tuple[str, ...] = ()  # left out, for they were there already


class Writer:
    """Changes the bank of a bundle; several processes may at once."""

    def __init__(self, path: Path, where: str = "") -> None:
        """`where` changes are kept (bundle/logs.py). Raises BundleError, RequestError, UnavailableError."""
        self._path, self._where = path, where
        self._open()

    def change(self, make: Callable[[Living], Changes]) -> State:
        """Store what `make` makes of the bank as it is, while nobody else changes it; the state after it.

        On return it is on the disk. What `make` raises changes nothing.
        """

        def on_news(records: list[Record]) -> Changes:
            if self._manifest() != self._opened and self._is_another_bank():
                raise CompactedError(changes.LOG_NAME, "the bundle was replaced")
            self.living.apply(records)
            made = make(self.living)
            self.living.check(made)
            return made

        for _ in range(10):
            try:
                return self.log.append(self.living.state, on_news)
            except CompactedError:
                self.close()
                self._open()
        raise BindingError(changes.LOG_NAME, f"{self._path} is replaced again and again: stop that first")

    def close(self) -> None:
        """Let go of the log."""
        self.log.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        for _ in range(10):
            self._opened = self._manifest()
            self.bundle = Bundle.open(self._path)
            try:
                self.living, self.log = open_living(self.bundle, self._where)
            except BundleError:
                if Manifest.read(self._path) == self.bundle.manifest:
                    raise
            else:
                return
        raise BindingError(changes.LOG_NAME, f"{self._path} is replaced again and again: stop that first")

    def _manifest(self) -> tuple[int, int, int] | None:
        """Which file the manifest is, and whether it was written since; None where there is none."""
        with contextlib.suppress(OSError):
            found = os.stat(self._path / MANIFEST_NAME)
            return found.st_ino, found.st_size, found.st_mtime_ns
        return None

    def _is_another_bank(self) -> bool:
        books = (Manifest.read(self._path), self.bundle.manifest)
        return len({changes.base_of(book.files, book.provenance, 0).lineage for book in books}) > 1


def add(
    writer: Writer, pipe: Pipeline, sources: Sequence[str], names_file: Path | None, label: str | None
) -> Iterator[Added]:
    """Embed pictures, folders, data sets and .npy files of embeddings, and store them, some at a time.

    `label`: number or name of the class of those that lie in no folder of a class. A picture that is there
    under its name already is left out. Raises RequestError; for a source that is none, or whose classes are
    not known, before anything is embedded.
    """
    side = writer.living.shape.thumbnail_size or 0
    known = _Known()
    with tempfile.TemporaryDirectory() as scratch:
        opened = [_opened(pipe, wanted, Path(scratch, str(i))) for i, wanted in enumerate(sources)]
        for source in opened:  # nothing is embedded for hours that cannot be stored, nor stored before that
            _labels(writer, _held(source), label, 0)
        for wanted, source in zip(sources, opened, strict=True):
            if source is None:
                found = _of_file(pipe, Path(wanted), side)
            else:
                found = _squared(read_all(pipe, source, wanted, side, names_file), side)
            labels = _labels(writer, (found.labels, found.class_names), label, len(found.ids))
            for start in range(0, len(found.ids), AT_ONCE):
                some = np.arange(start, min(start + AT_ONCE, len(found.ids)))
                part = found.part(some)
                yield _store(writer, part, None if labels is None else labels[some], known)


def remove(writer: Writer, ids: Sequence[int], names: Sequence[str]) -> tuple[tuple[int, ...], State]:
    """Take instances out, by id and by the name of their file; all of them or, with RequestError, none."""
    gone: list[int] = []
    least = writer.bundle.manifest.bank.neighbours

    def make(living: Living) -> Changes:
        gone[:] = dict.fromkeys([*ids, *_named(living, names)])
        for number in gone:
            if not living.holds(number):
                raise RequestError("id", f"{number} is not in the bank; icgan bank list shows what is")
        if len(living) - len(gone) < least:
            raise RequestError(
                "id",
                f"{len(gone)} of {len(living)} instances cannot go: {least} have to stay, the neighbours of "
                "an answer; add others before",
            )
        return Changes(
            np.empty(0, np.int64),
            np.empty((0, living.shape.embedding_dim), np.float32),
            np.empty(0, np.int64) if living.shape.labelled else None,
            None,
            None,
            np.array(sorted(gone), np.int64),
        )

    state = writer.change(make)
    return tuple(gone), state


class _Known:
    """Which pictures are there already: those of the same name and, as near as computing goes, embedding."""

    def __init__(self) -> None:
        self._ids: dict[str, list[int]] = {}
        self._added = -1  # of those added, how many were looked at; -1: not even those that are stored

    def follow(self, living: Living) -> None:
        """Learn the names that came since."""
        if living.base.names is None:
            return
        if self._added < 0:
            for row, number in enumerate(living.base.ids.tolist()):
                self._ids.setdefault(living.base.names[row], []).append(number)
            self._added = 0
        ids = living.added_ids[self._added :].tolist()
        for name, number in zip(living.added_names[self._added :], ids, strict=True):
            self._ids.setdefault(name, []).append(number)
        self._added += len(ids)

    def __call__(self, living: Living, name: str, embedding: F32) -> bool:
        bank = living.bank()
        ids = np.array([each for each in self._ids.get(name, ()) if name and living.holds(each)], np.int64)
        return len(ids) > 0 and float((bank.embeddings[bank.rows(ids)] @ embedding).max()) >= _SAME


def _store(writer: Writer, found: Found, labels: I64 | None, known: _Known) -> Added:
    """One record of instances, without those that are there already."""
    count, side = len(found.ids), writer.living.shape.thumbnail_size
    names = ("",) * count if found.names is None else found.names.pick(range(count))
    pictures = found.thumbnails
    if side and pictures is None:
        pictures = np.full((count, side, side, 3), _GREY, np.uint8)
    told: list[Added] = []

    def make(living: Living) -> Changes:
        known.follow(living)
        there = [known(living, name, row) for name, row in zip(names, found.embeddings, strict=True)]
        new = np.flatnonzero(np.logical_not(there))
        ids = living.next_id + np.arange(len(new))
        kept = tuple(names[row] for row in new)
        left_out = tuple(name for name, is_there in zip(names, there, strict=True) if is_there)
        told[:] = [Added(tuple(ids.tolist()), kept, living.state, left_out)]
        if not len(new):
            raise _NothingNewError
        return Changes(
            ids,
            found.embeddings[new],
            None if labels is None else labels[new],
            kept if living.base.names is not None else None,
            pictures[new] if side and pictures is not None else None,
            np.empty(0, np.int64),
        )

    try:
        state = writer.change(make)
    except _NothingNewError:
        return told[0]
    return replace(told[0], state=state)


class _NothingNewError(Exception):
    """Every instance of a batch is there already."""


def _named(living: Living, names: Sequence[str]) -> list[int]:
    bank = living.bank()
    if names and bank.names is None:
        raise RequestError("name", "this bank holds no names: give ids, which icgan search prints")
    ids: list[int] = []
    for name in names:
        assert bank.names is not None
        rows = [row for row in range(len(bank)) if bank.names[row] == name]
        if not rows:
            raise RequestError("name", f"{name} is not in the bank; icgan bank list shows what is")
        ids += bank.ids[rows].tolist()
    return ids


def _of_file(pipe: Pipeline, path: Path, side: int) -> Found:
    picture = images.for_encoder(path, pipe.model.preprocessing)
    thumbnails = images.resize_sides(picture, side, side)[None] if side else None
    names = Names.of([path.name])
    return Found(np.zeros(1, np.int64), pipe.embed([picture]), None, None, names, thumbnails)


def _opened(pipe: Pipeline, wanted: str, scratch: Path) -> Source | None:
    """What is added, not embedded yet; None for one picture."""
    if wanted.endswith(".npy"):
        _check_rows(wanted)
    elif Path(wanted).is_file():
        return None
    return open_source(pipe, wanted, scratch)


def _squared(found: Found, side: int) -> Found:
    """The same with thumbnails of the bank's size."""
    if found.thumbnails is None or not side:
        return found
    squares = np.stack([images.resize_sides(each, side, side) for each in found.thumbnails])
    return replace(found, thumbnails=squares)


def _check_rows(wanted: str) -> None:
    """RequestError that names the first row of a .npy that is no embedding."""
    try:
        rows = arrays.map_npy(Path(wanted), wanted)
    except (OSError, BundleError) as error:
        raise RequestError("source", f"{wanted} cannot be read ({error})") from None
    if rows.dtype != np.float32 or rows.ndim != 2:
        raise RequestError("source", f"{wanted} holds {rows.dtype}{list(rows.shape)}, expected float32[N, D]")
    if odd := first_not_unit(rows):
        row, length = odd
        raise RequestError(
            "source",
            f"row {row} of {wanted} has length {length:.4g}, expected 1: no embedding, "
            "or one that was not scaled",
        )


def _held(source: Source | None) -> tuple[I64 | None, tuple[str, ...] | None]:
    """None of the labels of a source, if it has some; and what they are called."""
    if source is None or (source.labels if isinstance(source, Stored) else source.class_names) is None:
        return None, None
    return np.empty(0, np.int64), source.class_names


def _labels(
    writer: Writer, held: tuple[I64 | None, tuple[str, ...] | None], label: str | None, count: int
) -> I64 | None:
    """Labels of `count` instances as the bank counts them, of those that their source holds, and its names.

    Raises RequestError where one is wanted.
    """
    if not writer.living.shape.labelled:
        return None
    labels, class_names = held
    named = label_names(writer.bundle.manifest) or ()
    if labels is not None and class_names is not None and named:
        unknown = [name for name in class_names if name not in named]
        if unknown:
            raise RequestError(
                "source", f"no class is called {unknown[0]!r}; name the folders after {', '.join(named[:20])}"
            )
        return np.array([named.index(name) for name in class_names], np.int64)[labels]
    if labels is not None:
        return labels
    if label is None:
        raise RequestError("label", "the instances of this bank have classes: give --label, a number or name")
    number = named.index(label) if label in named else int(label) if label.isdecimal() else -1
    if not 0 <= number < (len(named) or writer.bundle.manifest.model.classes or 1 << 31):
        known = f"; classes are {', '.join(named[:20])}" if named else ""
        raise RequestError("label", f"{label!r} is no class{known}")
    return np.full(count, number, np.int64)
