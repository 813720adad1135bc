"""How far queries lie from the stored instances: the first thing to look at when results disappoint."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.bank import Bank

SCORE_BUCKETS = tuple(round(0.05 * step, 2) for step in range(1, 21))  # upper bounds, cosine similarity
_BLOCK = 16_384  # instances compared at a time
_SAMPLE = 256  # instances looked at: a quantile needs no more, and a large bank allows no more
_QUICK = 64 << 20  # numbers of a bank up to which a command computes it by itself: a second


def outside_below(bank: Bank, quantile: float = 0.01) -> float:
    """The score of the nearest instance below which a query counts as outside the bank.

    All but `quantile` of the stored instances have a neighbour at least this near (themselves excluded), so a
    query without one is unlike what the bank holds. A bank of one has no inside: -1.
    """
    if len(bank) < 2:
        return -1.0
    rows = np.linspace(0, len(bank) - 1, min(len(bank), _SAMPLE)).astype(np.int64)  # in any language
    some = bank.embeddings[rows]
    nearest = np.full(len(rows), -np.inf)
    # in blocks: a large bank is mapped, and read once rather than once for each of the instances
    for start in range(0, len(bank), _BLOCK):
        scores: NDArray[np.float32] = some @ bank.embeddings[start : start + _BLOCK].T
        own = np.flatnonzero((rows >= start) & (rows < start + _BLOCK))
        scores[own, rows[own] - start] = -np.inf
        nearest = np.maximum(nearest, scores.max(axis=1))
    return float(np.quantile(nearest, quantile))


def known_limit(bank: Bank) -> float | None:
    """What the bundle states of it, else computed where that is quick; None where neither is."""
    if bank.stated_limit is not None:
        return bank.stated_limit
    return outside_below(bank) if bank.embeddings.size <= _QUICK else None
