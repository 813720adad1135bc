"""Neighbours in a bank that changes: any search of the stored bank, and every addition compared exactly.

What was removed is left out of the candidates, and more of them are taken until enough are left, so that the
answer is that of a bank written anew. base.py scores and orders all of them, as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.changes import CompactedError
from icgan_runtime.bundle.living import Living, open_living, stored
from icgan_runtime.bundle.logs import is_address
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import BindingError, BundleError, UnavailableError
from icgan_runtime.search.base import F32, I64, ROUNDING, Propose, Search
from icgan_runtime.search.choose import choose_search


class LivingSearch:
    """The search of a bank in its newest state."""

    def __init__(self, living: Living, wanted: str) -> None:
        """Raises RequestError and MissingExtraError as choose_search does."""
        self.living = living
        self._base = choose_search(living.base, wanted)
        self._current: Search | None = None

    def current(self) -> Search:
        """The search of the state that `living` has come to; it stays that of this state."""
        bank = self.living.bank()
        if self._current is None or self._current.bank is not bank:
            self._current = self._base if bank is self.living.base else self._of(bank)
        return self._current

    def _of(self, bank: Bank) -> Search:
        living = self.living
        removed = len(living.base) - int(np.count_nonzero(living.base_alive))
        reason = f"{self._base.reason}; {len(living.added_alive)} added since, {removed} removed"
        base = _Stored(self._base.propose, living.base.ids, living.base_alive, removed)
        propose = _propose(base, living.added_ids, living.added, living.added_alive, bank.ids)
        return Search(self._base.name, reason, bank, propose)


class Followed:
    """A bundle's bank as it changes, for a process that goes on: `search` is that of the newest state."""

    def __init__(self, bundle: Bundle, wanted: str, changes: str | None) -> None:
        """`changes`: where they are kept, a database's address or the bundle's folder; None: nowhere.

        Raises BundleError, RequestError, MissingExtraError; UnavailableError where that cannot be reached.
        """
        self._wanted, self._changes = wanted, changes
        self._model = bundle.manifest.model
        self._open(bundle)

    def search(self) -> Search:
        """The search of the newest state. Raises as the constructor does."""
        if self._changes is None:
            return self._search.current()
        try:
            self._living.apply(self._log.read(self._living.state))
        except CompactedError as error:
            self._log.close()
            if is_address(self._changes):
                raise UnavailableError(f"{error}; load a release of the compacted bundle") from None
            self._open(Bundle.open(self._changes))
        except BundleError:
            self._log.close()  # refused again, and not taken for read
            raise
        return self._search.current()

    def close(self) -> None:
        """Let go of the log."""
        if self._changes is not None:
            self._log.close()

    def _open(self, bundle: Bundle) -> None:
        if bundle.manifest.model.identity != self._model.identity:
            raise BindingError("manifest.json", f"{bundle.root} is another model than the one that is served")
        if self._changes is None:
            self._living = stored(bundle)[0]
        else:
            self._living, self._log = open_living(bundle, self._changes)
        self._search = LivingSearch(self._living, self._wanted)


def load_search(bundle: Bundle, wanted: str, state: str | None = None) -> Search:
    """The search of a bundle's bank as it is now, or was in `state`. Raises as Followed does."""
    living, log = open_living(bundle, state=state)
    log.close()
    return LivingSearch(living, wanted).current()


@dataclass(frozen=True, eq=False)
class _Stored:
    """The stored bank at one state."""

    propose: Propose
    ids: I64  # [B]
    alive: NDArray[np.bool_]  # [B]
    removed: int

    def near(self, embedding: F32, count: int) -> list[I64]:
        """Ids of at least the `count` best that are not removed, and all tied with them, of each row."""
        total = len(self.ids)
        count = min(count, total - self.removed)
        if count == 0:
            return [np.empty(0, np.int64)] * len(embedding)
        found: list[I64 | None] = [None] * len(embedding)
        wanted, open_rows = count + min(self.removed, count), list(range(len(embedding)))
        while open_rows:
            wanted = min(wanted, total)
            for row, near in zip(open_rows, self.propose(embedding[open_rows], wanted), strict=True):
                good = near[self.alive[near]]
                # the removed ones among the best `wanted` are at most those among all that came
                if wanted == total or wanted - (len(near) - len(good)) >= count:
                    found[row] = self.ids[good]
            open_rows = [row for row in open_rows if found[row] is None]
            wanted = 2 * wanted
        return [each for each in found if each is not None]


def _propose(stored: _Stored, ids: I64, added: F32, alive: NDArray[np.bool_], rows: I64) -> Propose:
    """Candidates among what is stored and what was added, as places in `rows`, the ids of the whole bank."""
    places = np.flatnonzero(alive)

    def propose(embedding: F32, count: int) -> list[I64]:
        found = []
        for row, near in zip(embedding, stored.near(embedding, count), strict=True):
            if len(places):
                near = np.concatenate([near, ids[_nearest(row, added, places, count)]])
            found.append(np.searchsorted(rows, near))
        return found

    return propose


def _nearest(row: F32, added: F32, places: I64, count: int) -> I64:
    """Those of `places` in `added` that may be among the `count` nearest to an embedding."""
    # by numpy itself: a product of one row makes a BLAS wait for its threads, on a busy machine for long
    scores = np.einsum("nd,d->n", added, row)[places]
    if len(scores) <= count:
        return places
    last = np.partition(scores, len(scores) - count)[len(scores) - count]
    near: I64 = places[scores >= last - 2 * ROUNDING]
    return near
