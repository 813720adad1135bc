"""How many of the true neighbours an approximate search finds, measured on the bank itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.search.base import Search
from icgan_runtime.search.others import scores_of_others

I64 = NDArray[np.int64]


def nearest_others(bank: Bank, rows: I64, k: int) -> I64:
    """Row numbers [Q, k] of the instances nearest to the instances `rows` [Q], without these, best first."""
    best = np.full((len(rows), k), -np.inf, np.float32)
    found = np.zeros((len(rows), k), np.int64)
    for start, scores in scores_of_others(bank, rows):
        near = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
        best = np.concatenate([best, np.take_along_axis(scores, near, 1)], axis=1)
        found = np.concatenate([found, near + start], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, found = np.take_along_axis(best, order, 1), np.take_along_axis(found, order, 1)
    return found


def recall_of_others(find: Search, rows: I64, expected: I64) -> tuple[float, float]:
    """Shares of the nearest, and of all `expected` [Q, k], that a search for the instances `rows` finds.

    An instance that scores as the true one does counts as found: copies are neighbours alike.
    """
    bank, k = find.bank, expected.shape[1]
    queries = np.ascontiguousarray(bank.embeddings[rows])
    ids, scores = find(queries, min(k + 1, len(bank)))
    hits = np.zeros(expected.shape, np.bool_)
    for row, own in enumerate(rows.tolist()):
        others = scores[row][ids[row] != bank.ids[own]]
        wanted = queries[row] @ bank.embeddings[expected[row]].T
        for place in range(min(k, len(others))):
            hits[row, place] = others[place] >= wanted[place] - 1e-5
    return float(hits[:, 0].mean()), float(hits.mean())
