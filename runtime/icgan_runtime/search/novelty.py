"""How far queries lie from the stored instances: the first thing to look at when results disappoint."""

from __future__ import annotations

import numpy as np

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.search.others import scores_of_others, spread

SCORE_BUCKETS = tuple(round(0.05 * step, 2) for step in range(1, 21))  # upper bounds, cosine similarity
QUANTILE = 0.01  # of what is inside, that is less like the rest than the limit asks
_SAMPLE = 256  # instances looked at: a quantile needs no more, and a large bank allows no more
_QUICK = 64 << 20  # numbers of a bank up to which a command computes it by itself: a second


def outside_below(bank: Bank, quantile: float = QUANTILE) -> float:
    """The score of the nearest instance below which a query counts as outside the bank.

    All but `quantile` of the stored instances have a neighbour at least this near (themselves excluded), so a
    query without one is unlike what the bank holds. A bank of one has no inside: -1.
    """
    if len(bank) < 2:
        return -1.0
    rows = spread(len(bank), _SAMPLE)  # the same ones in any language
    nearest = np.full(len(rows), -np.inf)
    for _, scores in scores_of_others(bank, rows):
        nearest = np.maximum(nearest, scores.max(axis=1))
    return float(np.quantile(nearest, quantile))


def known_limit(bank: Bank) -> float | None:
    """What the bundle states of it, else computed where that is quick; None where neither is."""
    if bank.stated_limit is not None:
        return bank.stated_limit
    return outside_below(bank) if bank.embeddings.size <= _QUICK else None
