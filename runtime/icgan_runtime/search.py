"""Which way to find the nearest instances: by inner product, exactly, with ties in the order of ids.

Any fast engine (numpy here, faiss in `search_faiss.py`) proposes candidates; `search_base.py` scores and
orders them, so that all answer alike. Only `faiss-ivf` may miss a neighbour; what it finds it orders as the
others do.
"""

from __future__ import annotations

import numpy as np

from icgan_runtime.bank import Bank
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.search_base import F32, I64, ROUNDING, Search

SEARCHES = ("auto", "numpy", "faiss", "faiss-ivf", "faiss-gpu")


def choose_search(bank: Bank, wanted: str = "auto") -> Search:
    """The one of SEARCHES that is asked for; "auto" is faiss when it is installed, numpy otherwise.

    Raises RequestError for an unknown name, MissingExtraError for what is not installed.
    """
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
