"""A bank that changes: the stored one as the base, and what was added and removed since.

`Living` follows the records of a log. The bank that it gives is that of one state and stays so: rows are
taken from base and additions as they are asked for, and removed ones are none of its rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.arrays import InBlocks
from icgan_runtime.bundle.bank import Bank, base_of, first_not_unit
from icgan_runtime.bundle.change_log import ChangeLog
from icgan_runtime.bundle.changes import LOG_NAME, MOST_IDS, Base, Changes, Record, Shape
from icgan_runtime.bundle.logs import open_log
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import BundleError, RequestError
from icgan_runtime.names import Names

Array = NDArray[Any]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class Picked(InBlocks):
    """Rows of two arrays, by number, as one array to read: those of `base`, then those of `more`."""

    def __init__(self, base: Array, more: Array, rows: I64) -> None:
        self._base, self._more, self._rows = base, more, rows
        self.shape = (len(rows), *base.shape[1:])
        self.dtype, self.ndim = base.dtype, base.ndim
        self.size = int(np.prod(self.shape))

    def __getitem__(self, key: Any) -> Array:
        rows: I64 = np.asarray(self._rows[key])
        if rows.ndim == 0:
            return self._of(int(rows))
        low = rows < len(self._base)
        if low.all():
            found: Array = self._base[rows]
            return found
        found = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        found[low] = self._base[rows[low]]
        found[~low] = self._more[rows[~low] - len(self._base)]
        return found

    def _of(self, row: int) -> Array:
        base = len(self._base)
        found: Array = self._base[row] if row < base else self._more[row - base]
        return found


@dataclass(frozen=True, eq=False)
class PickedNames(Names):
    """Names of the same rows; text and ends are those of the base alone."""

    more: tuple[str, ...]
    rows: I64

    def __post_init__(self) -> None:
        pass  # the base's were looked at

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> str:
        number, base = int(self.rows[row]), len(self.ends)
        return super().__getitem__(number) if number < base else self.more[number - base]

    def whole(self) -> Names:
        """All of them as arrays, to be written."""
        return Names.of(self[row] for row in range(len(self)))


class Living:
    """A bundle's bank and the changes to it, up to a state."""

    def __init__(self, base: Bank, start: Base, classes: int) -> None:
        """`start` says where `base` stands; `classes` are those of the model."""
        self.base, self.state, self.next_id = base, start.state, start.next_id
        about = base.about
        self.shape = Shape(about.embedding_dim, about.labelled, about.thumbnail_size)
        self._classes = classes
        self.base_alive = np.ones(len(base), np.bool_)  # replaced, never changed in place
        self.added_alive = np.ones(0, np.bool_)  # likewise
        self._ids = _Growing(np.empty(0, np.int64))
        self._embeddings = _Growing(np.empty((0, about.embedding_dim), np.float32))
        self._labels = None if base.labels is None else _Growing(np.empty(0, np.int64))
        self._thumbnails = None if base.thumbnails is None else _Growing(base.thumbnails[:0])
        self._names: list[str] = []
        self._bank: Bank | None = None

    @property
    def added_ids(self) -> I64:
        """Ids [M] of the instances that were added, also of those that are removed again."""
        ids: I64 = self._ids.rows
        return ids

    @property
    def added_names(self) -> list[str]:
        """Their names, none where the stored ones have none."""
        return self._names

    @property
    def added(self) -> F32:
        """Their embeddings [M, D]."""
        rows: F32 = self._embeddings.rows
        return rows

    def apply(self, records: Iterable[Record]) -> None:
        """Follow the log. Raises BundleError for records that this bank cannot have had."""
        for record in records:
            self.check(record.changes)
            self._apply(record.changes)
            self.state, self._bank = record.state, None

    def check(self, changes: Changes) -> None:
        """Raise BundleError unless these changes may follow: what is in a log anybody may have written."""
        if odd := first_not_unit(changes.embeddings):
            raise BundleError(LOG_NAME, f"adds an embedding that is not of unit length, row {odd[0]}")
        ids = changes.ids
        if len(ids) and (ids[0] < self.next_id or ids[-1] >= MOST_IDS or bool(np.any(ids[1:] <= ids[:-1]))):
            raise BundleError(LOG_NAME, f"gives the id {ids[0]}, expected {self.next_id} or more, rising")
        labels = changes.labels
        if labels is not None and len(labels):
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or (self._classes and high >= self._classes):
                raise BundleError(LOG_NAME, f"adds the label {low if low < 0 else high}")
        missing = [number for number in changes.removed.tolist() if not self.holds(number)]
        if missing or len(np.unique(changes.removed)) != len(changes.removed):
            raise BundleError(LOG_NAME, "removes what is not stored")

    def holds(self, number: int) -> bool:
        """Whether there is an instance with this id."""
        alive, place = self._place(number)
        return place is not None and bool(alive[place])

    def __len__(self) -> int:
        return int(np.count_nonzero(self.base_alive)) + int(np.count_nonzero(self.added_alive))

    def bank(self) -> Bank:
        """The bank of this state."""
        if self._bank is None:
            self._bank = self._picked() if len(self.added_alive) or not self.base_alive.all() else self.base
        return self._bank

    def _picked(self) -> Bank:
        base, count = self.base, len(self.base)
        rows = np.concatenate([np.flatnonzero(self.base_alive), np.flatnonzero(self.added_alive) + count])
        ids = np.concatenate([base.ids, self._ids.rows])[rows]
        labels = thumbnails = None
        if self._labels is not None:
            assert base.labels is not None
            labels = np.concatenate([base.labels, self._labels.rows])[rows]
        if self._thumbnails is not None:
            assert base.thumbnails is not None
            thumbnails = cast(Array, Picked(base.thumbnails, self._thumbnails.rows, rows))
        names = base.names and PickedNames(base.names.text, base.names.ends, tuple(self._names), rows)
        return dataclasses.replace(
            base,
            embeddings=cast(Array, Picked(base.embeddings, self.added, rows)),
            coding="float32",  # compaction keeps every row as it is, added ones too
            ids=ids,
            labels=labels,
            thumbnails=thumbnails,
            names=names,
            cells=None,
            state=self.state,
            checked=True,
        )

    def _apply(self, changes: Changes) -> None:
        if len(changes.ids):
            self._ids.add(changes.ids)
            self._embeddings.add(changes.embeddings)
            if self._labels is not None and changes.labels is not None:
                self._labels.add(changes.labels)
            if self._thumbnails is not None and changes.thumbnails is not None:
                self._thumbnails.add(changes.thumbnails)
            if self.base.names is not None:
                self._names += changes.names or [""] * len(changes.ids)
            self.added_alive = np.concatenate([self.added_alive, np.ones(len(changes.ids), np.bool_)])
            self.next_id = int(changes.ids[-1]) + 1
        if len(changes.removed):
            self.base_alive, self.added_alive = self.base_alive.copy(), self.added_alive.copy()
        for number in changes.removed.tolist():
            alive, place = self._place(number)
            assert place is not None
            alive[place] = False

    def _place(self, number: int) -> tuple[NDArray[np.bool_], int | None]:
        """Where an id is or was: which of the two marks of what is alive, and the row in it."""
        for ids, alive in ((self.base.ids, self.base_alive), (self._ids.rows, self.added_alive)):
            place = int(np.searchsorted(ids, number))
            if place < len(ids) and ids[place] == number:
                return alive, place
        return self.base_alive, None


def open_living(bundle: Bundle, changes: str = "", state: str | None = None) -> tuple[Living, ChangeLog]:
    """A bundle's bank with what is in its log, up to `state` (default: the newest), and the log itself.

    `changes`: where they are kept (logs.py). Raises BundleError, RequestError for a state that is not known,
    and as the log does.
    """
    living, start = stored(bundle)
    log = open_log(changes, bundle.root, start, living.shape)
    try:
        records = log.read(start.state)
        living.apply(records if state is None else records[: _place_of(state, start, records)])
    except BaseException:
        log.close()
        raise
    return living, log


def _place_of(state: str, start: Base, records: list[Record]) -> int:
    """How many records lead to a state. Raises RequestError where it is not known."""
    known = [str(start.state), *(str(record.state) for record in records)]
    if state not in known:
        raise RequestError(
            "state",
            f"{state!r} is none of this bank: its {len(known)} states are {known[0]} to {known[-1]}; "
            "what was before a compaction cannot come back",
        )
    return known.index(state)


def stored(bundle: Bundle) -> tuple[Living, Base]:
    """A bundle's bank without its changes, and where that stands."""
    bank = Bank.of_bundle(bundle)
    start = base_of(bundle, bank)
    return Living(bank, start, bundle.manifest.model.classes), start


def pending(bundle: Bundle) -> int:
    """How many changes the log beside a bank holds that are not in the bank."""
    if not (bundle.root / LOG_NAME).exists():
        return 0
    living, log = open_living(bundle)
    log.close()
    return 0 if living.bank() is living.base else living.state.number - stored(bundle)[1].number


class _Growing:
    """An array that grows at its end; what was given of it stays as it is."""

    def __init__(self, empty: Array) -> None:
        self._held, self._count = empty, 0

    @property
    def rows(self) -> Any:
        return self._held[: self._count]

    def add(self, rows: Array) -> None:
        wanted = self._count + len(rows)
        if wanted > len(self._held):
            grown = np.empty((max(wanted, 2 * len(self._held)), *self._held.shape[1:]), self._held.dtype)
            grown[: self._count] = self.rows
            self._held = grown
        self._held[self._count : wanted] = rows
        self._count = wanted
