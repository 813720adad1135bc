"""What every search shares: candidates from a fast engine, scored once more and put in order.

BLAS, faiss and GPUs round sums of 2048 products differently, so two runtimes could order near-equal
neighbours differently. Here the scores of the candidates are computed in one fixed way, then sorted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import MAX_NEIGHBOURS
from icgan_runtime.errors import RequestError
from icgan_runtime.rows import check_embedding

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

# A float32 inner product of unit vectors is off by less than this whatever the order of summation (about
# 2048 · 2⁻²⁴ at the very worst, 1e-6 in practice).
ROUNDING = 2e-4

# Everything ties for an embedding that is orthogonal to the whole bank, and anybody can send one: no copy of
# all of it in double precision.
_RESCORED_AT_ONCE = 4096

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
        """ids and scores [N, k] of the k nearest to each unit row of `embedding` [N, D], best first.

        Raises RequestError for a k that this bank does not have, or rows that are not of length 1.
        """
        check_embedding(embedding)  # nothing is near NaN: engines find less than k, or search for ever
        return self.find(embedding, k)

    def find(self, embedding: F32, k: int) -> tuple[I64, F32]:
        """The same of rows that were checked."""
        if not 1 <= k <= min(MAX_NEIGHBOURS, len(self.bank)):
            raise RequestError("k", f"{k}, expected 1..{min(MAX_NEIGHBOURS, len(self.bank))} for this bank")
        if len(embedding) == 1:
            (candidates,) = self.propose(embedding, k)
            ids, scores = self._best(embedding[0], candidates, k)
            return ids[None], scores[None]
        # the rows of one picture stand side by side, and are searched for once
        new = np.ones(len(embedding), np.bool_)
        new[1:] = (embedding[1:] != embedding[:-1]).any(axis=1)
        different = embedding[new]
        ids = np.empty((len(different), k), np.int64)
        scores = np.empty((len(different), k), np.float32)
        for row, candidates in enumerate(self.propose(different, k)):
            ids[row], scores[row] = self._best(different[row], candidates, k)
        if len(different) == len(embedding):
            return ids, scores
        which = np.cumsum(new) - 1
        return ids[which], scores[which]

    def _best(self, embedding: F32, candidates: I64, k: int) -> tuple[I64, F32]:
        """ids and scores [k] of the best for [D] among some row numbers."""
        candidates = np.sort(candidates)
        if len(candidates) <= _RESCORED_AT_ONCE:
            exact = exact_scores(embedding, self.bank.embeddings[candidates])
        else:
            parts = np.split(candidates, range(_RESCORED_AT_ONCE, len(candidates), _RESCORED_AT_ONCE))
            exact = np.concatenate([exact_scores(embedding, self.bank.embeddings[part]) for part in parts])
        # stable: ties stay in the order of rows, thus of ids
        best = np.argsort(-exact, kind="stable")[:k]
        return self.bank.ids[candidates[best]], exact[best]


def exact_scores(embedding: F32, rows: F32) -> F32:
    """Inner products of [D] with [M, D] -> [M]: summed in double, then rounded to float32.

    Row by row in one order, so that equal rows score equally wherever they stand.
    """
    # both in double before: numpy would convert them block by block, and a block may end within a row
    scores: F32 = np.einsum("md,d->m", rows.astype(np.float64), embedding.astype(np.float64)).astype(
        np.float32
    )
    return scores
