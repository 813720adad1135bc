"""Instances of a bank compared with all the others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.bank import Bank

_BLOCK = 16_384  # instances compared at a time


def spread(total: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` row numbers of `total`, evenly apart."""
    return np.linspace(0, total - 1, min(total, wanted)).astype(np.int64)


def scores_of_others(bank: Bank, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Inner products of the instances `rows` [Q] with the whole bank, themselves -inf, a block at a time.

    Gives the first instance of a block, and the scores [Q, block]. A bank that is mapped is read once.
    """
    some = np.ascontiguousarray(bank.embeddings[rows])
    for start in range(0, len(bank), _BLOCK):
        scores: NDArray[np.float32] = some @ bank.embeddings[start : start + _BLOCK].T
        own = np.flatnonzero((rows >= start) & (rows < start + _BLOCK))
        scores[own, rows[own] - start] = -np.inf
        yield start, scores
