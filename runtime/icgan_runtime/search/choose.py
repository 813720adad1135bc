"""Which way to find the nearest instances: by inner product, exactly, with ties in the order of ids.

Any fast engine (`numpy.py`, `faiss.py`) proposes candidates; `base.py` scores and orders
them, so that all answer alike. Only `faiss-ivf` may miss a neighbour; what it finds it orders as the
others do.
"""

from __future__ import annotations

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.search.base import Search
from icgan_runtime.search.numpy import numpy_search

SEARCHES = ("auto", "numpy", "faiss", "faiss-ivf", "faiss-gpu")


def choose_search(bank: Bank, wanted: str = "auto") -> Search:
    """The one of SEARCHES that is asked for; "auto" is faiss when it is installed, numpy otherwise.

    With faiss, "auto" uses the index of a bank that was given one.

    Raises RequestError for an unknown name, MissingExtraError for what is not installed.
    """
    if wanted not in SEARCHES:
        raise RequestError("search", f"{wanted!r}, expected one of {', '.join(SEARCHES)}")
    if wanted == "numpy":
        return numpy_search(bank, "asked for")
    try:
        from icgan_runtime.search.faiss import faiss_gpu_search, faiss_ivf_search, faiss_search
    except ImportError:
        if wanted != "auto":
            raise MissingExtraError("faiss", "faiss") from None
        return numpy_search(bank, "faiss is not installed")
    if wanted == "faiss-ivf":
        return faiss_ivf_search(bank, "asked for")
    if wanted == "faiss-gpu":
        return faiss_gpu_search(bank, "asked for")
    if wanted == "auto" and bank.cells is not None:
        return faiss_ivf_search(bank, "the bank has an index")
    return faiss_search(bank, "installed" if wanted == "auto" else "asked for")
