"""Nearest instances with numpy alone, exactly, by brute force."""

from __future__ import annotations

import numpy as np

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.search.base import F32, I64, ROUNDING, Search


def numpy_search(bank: Bank, reason: str) -> Search:
    """Brute force by matrix product."""

    def propose(embedding: F32, count: int) -> list[I64]:
        found = []
        for row in embedding:  # one at a time: memory stays at one score per instance
            scores = bank.embeddings @ row
            last = np.partition(scores, len(scores) - count)[len(scores) - count]
            found.append(np.flatnonzero(scores >= last - 2 * ROUNDING))
        return found

    return Search("numpy", reason, bank, propose)
