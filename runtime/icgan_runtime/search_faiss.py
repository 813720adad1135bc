"""Nearest instances with faiss; the only file of the runtime that imports it."""

from __future__ import annotations

import faiss
import numpy as np

from icgan_runtime.bank import Bank
from icgan_runtime.search import F32, I64, ROUNDING, Search


def faiss_search(bank: Bank, reason: str) -> Search:
    """An exact inner-product index over the bank."""
    index = faiss.IndexFlatIP(bank.embeddings.shape[1])
    index.add(np.ascontiguousarray(bank.embeddings))

    def propose(embedding: F32, count: int) -> list[I64]:
        wanted = min(2 * count, len(bank))
        while True:
            scores, rows = index.search(np.ascontiguousarray(embedding), wanted)
            # the first left out must be clearly worse than the last wanted, or it might be its tie
            enough = scores[:, -1] < scores[:, count - 1] - 2 * ROUNDING
            if wanted == len(bank) or enough.all():
                return list(rows)
            wanted = min(4 * wanted, len(bank))

    return Search("faiss", reason, bank, propose)
