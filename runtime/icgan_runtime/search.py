"""Nearest instances by inner product, exactly, with ties in the order of ids.

Any fast engine (numpy here, faiss in `search_faiss.py`) proposes candidates; their scores are then computed
once more in one fixed way, and sorted. BLAS, faiss and GPUs round sums of 2048 products differently, so
without this step two runtimes could order near-equal neighbours differently. Only `faiss-ivf` may miss a
neighbour; what it finds it orders as the others do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bank import Bank
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.manifest import MAX_NEIGHBOURS
from icgan_runtime.rows import check_embedding

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

# A float32 inner product of unit vectors is off by less than this whatever the order of summation (about
# 2048 · 2⁻²⁴ at the very worst, 1e-6 in practice).
ROUNDING = 2e-4

# Everything ties for an embedding that is orthogonal to the whole bank, and anybody can send one: no copy of
# all of it in double precision.
_RESCORED_AT_ONCE = 4096

SEARCHES = ("auto", "numpy", "faiss", "faiss-ivf", "faiss-gpu")

# embeddings [N, D], count -> for each row, row numbers of at least the `count` best, and all tied with them
Propose = Callable[[F32, int], list[I64]]


@dataclass(frozen=True)
class Search:
    """A way to find neighbours in one bank, and why it was chosen."""

    name: str
    reason: str
    bank: Bank
    propose: Propose

    def __call__(self, embedding: F32, k: int) -> tuple[I64, F32]:
        """ids and scores [N, k] of the k nearest to each unit row of `embedding` [N, D], best first."""
        if not 1 <= k <= min(MAX_NEIGHBOURS, len(self.bank)):
            raise RequestError("k", f"{k}, expected 1..{min(MAX_NEIGHBOURS, len(self.bank))} for this bank")
        check_embedding(embedding)  # nothing is near NaN: engines find less than k, or search for ever
        ids = np.empty((len(embedding), k), np.int64)
        scores = np.empty((len(embedding), k), np.float32)
        for row, candidates in enumerate(self.propose(embedding, k)):
            candidates = np.sort(candidates)
            parts = np.split(candidates, range(_RESCORED_AT_ONCE, len(candidates), _RESCORED_AT_ONCE))
            exact = np.concatenate(
                [exact_scores(embedding[row], self.bank.embeddings[part]) for part in parts]
            )
            best = np.argsort(-exact, kind="stable")[
                :k
            ]  # stable: ties stay in the order of rows, thus of ids
            ids[row], scores[row] = self.bank.ids[candidates[best]], exact[best]
        return ids, scores


def exact_scores(embedding: F32, rows: F32) -> F32:
    """Inner products of [D] with [M, D] -> [M]: summed in double, then rounded to float32.

    Row by row in one order, so that equal rows score equally wherever they stand.
    """
    products = rows.astype(np.float64) * embedding.astype(np.float64)
    scores: F32 = products.sum(axis=1).astype(np.float32)
    return scores


def choose_search(bank: Bank, wanted: str = "auto") -> Search:
    """The one of SEARCHES that is asked for; "auto" is faiss when it is installed, numpy otherwise."""
    if wanted not in SEARCHES:
        raise RequestError("search", f"{wanted!r}, expected one of {', '.join(SEARCHES)}")
    if wanted == "numpy":
        return numpy_search(bank, "asked for")
    try:
        from icgan_runtime.search_faiss import faiss_gpu_search, faiss_ivf_search, faiss_search
    except ImportError:
        if wanted != "auto":
            raise MissingExtraError("faiss", "faiss") from None
        return numpy_search(bank, "faiss is not installed")
    if wanted == "faiss-ivf":
        return faiss_ivf_search(bank, "asked for")
    if wanted == "faiss-gpu":
        return faiss_gpu_search(bank, "asked for")
    return faiss_search(bank, "installed" if wanted == "auto" else "asked for")


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
