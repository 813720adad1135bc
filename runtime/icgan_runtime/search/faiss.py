"""Nearest instances with faiss; the only file of the runtime that imports it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import faiss
import numpy as np

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.errors import MissingExtraError
from icgan_runtime.search.base import F32, I64, ROUNDING, Propose, Search
from icgan_runtime.search.numpy import numpy_search

# The approximate index (Sivic and Zisserman, 2003; Jégou et al., 2011): the principal components of the
# instances, one byte each, in lists around centroids, of which a query reads the nearest few. Every component
# of 2048 would cost eight times the memory and thirty times the time (docs/reports/log.md).
COMPONENTS = 256
LISTS_PER_ROOT = 1  # lists = this × √count, at least
PROBES = 32
TRAINING_ROWS_PER_LIST = 40  # faiss asks for 39
TRAINING_ROUNDS = 6
AXES_ROWS = 10_000  # enough to tell the principal axes of 2048 components
CANDIDATES = 64  # rescored exactly, so that neither projection nor bytes decide the order
# Of a flat index: below this a second thread costs more than it saves, above all beside other programs.
ONE_THREAD_BELOW_BYTES = 16 << 20
ROWS_AT_ONCE = 65_536  # of a bank that may be mapped from disk
GPU_CANDIDATES = 2048  # faiss's kernels refuse to select more; twice MAX_NEIGHBOURS


def faiss_search(bank: Bank, reason: str) -> Search:
    """An exact inner-product index over the bank."""
    index = faiss.IndexFlatIP(bank.embeddings.shape[1])
    index.add(np.ascontiguousarray(bank.embeddings))
    return Search("faiss", reason, bank, exactly(index, len(bank)))


def faiss_gpu_search(bank: Bank, reason: str) -> Search:
    """The same on the first visible GPU. Raises MissingExtraError when this faiss knows no GPU.

    Embeddings come from and go to host memory, a few kB per query, since exact scores are computed there.
    """
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        raise MissingExtraError("faiss-gpu-cu12, and a GPU", "faiss-gpu")
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), bank.embeddings.shape[1])
    for start in range(0, len(bank), ROWS_AT_ONCE):
        index.add(np.ascontiguousarray(bank.embeddings[start : start + ROWS_AT_ONCE]))
    propose = exactly(index, len(bank), GPU_CANDIDATES, numpy_search(bank, reason).propose)
    turn = threading.Lock()

    def one_at_a_time(embedding: F32, count: int) -> list[I64]:
        with turn:  # the memory of one StandardGpuResources serves one thread
            return propose(embedding, count)

    return Search("faiss-gpu", reason, bank, one_at_a_time)


def exactly(index: faiss.Index, total: int, most: int | None = None, rest: Propose | None = None) -> Propose:
    """Candidates from an exact index, with everything that might tie with the last one wanted.

    An index that gives at most `most` of them leaves embeddings with more ties to `rest`.
    """

    small = 4 * total * index.d < ONE_THREAD_BELOW_BYTES

    def propose(embedding: F32, count: int) -> list[I64]:
        limit = total if most is None else min(most, total)
        wanted = min(2 * count, limit)
        while True:
            with one_thread() if small else nullcontext():
                scores, rows = index.search(np.ascontiguousarray(embedding), wanted)
            # the first left out must be clearly worse than the last wanted, or it might be its tie
            enough = scores[:, -1] < scores[:, count - 1] - 2 * ROUNDING
            if wanted == total or enough.all():
                return within(rows, scores, count)
            if rest is not None and wanted == limit:
                others = iter(rest(embedding[~enough], count))
                found = zip(within(rows, scores, count), enough, strict=True)
                return [row if good else next(others) for row, good in found]
            wanted = min(4 * wanted, limit)

    return propose


def within(rows: I64, scores: F32, count: int) -> list[I64]:
    """Of each row's candidates those that may be among its `count` best; most of the others are far off."""
    near = scores >= scores[:, count - 1 : count] - 2 * ROUNDING
    return [row[good] for row, good in zip(rows, near, strict=True)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep faiss to the calling thread; OpenMP remembers the number for each calling thread by itself."""
    usual = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(usual)


def faiss_ivf_search(bank: Bank, reason: str, probes: int = PROBES) -> Search:
    """An approximate index, built here (docs/serving.md says how long that takes): 256 bytes an instance.

    A query compares with about `probes` / √count of the bank. The neighbours found are scored and ordered
    exactly; a nearer one in a list that was not read is missed.
    """
    count = len(bank)
    lists = max(1, min(int(LISTS_PER_ROOT * math.sqrt(count)), count // TRAINING_ROWS_PER_LIST))
    some = bank.embeddings[_spread(count, lists * TRAINING_ROWS_PER_LIST)]
    axes = principal_axes(some[_spread(len(some), AXES_ROWS)], COMPONENTS)
    width = axes.shape[1]
    # unit vectors: the nearest is the one with the largest product, and distances survive a projection
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(width), width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )
    index.cp.niter = TRAINING_ROUNDS
    index.train(some @ axes)
    for start in range(0, count, ROWS_AT_ONCE):
        index.add(bank.embeddings[start : start + ROWS_AT_ONCE] @ axes)

    def propose(embedding: F32, wanted: int) -> list[I64]:
        reach, read = min(max(2 * wanted, CANDIDATES), count), min(probes, lists)
        while True:
            parameters = faiss.SearchParametersIVF(nprobe=read)  # type: ignore[call-arg]  # its stub says less
            _, rows = index.search(embedding @ axes, reach, params=parameters)
            found = [row[row >= 0] for row in rows]  # -1 where the lists that were read held too few
            if read == lists or all(len(row) >= wanted for row in found):
                return found
            read = min(2 * read, lists)

    return Search("faiss-ivf", reason, bank, propose)


def principal_axes(rows: F32, count: int) -> F32:
    """[D, at most `count`]: the orthonormal directions in which `rows` [N, D] differ most."""
    centred = rows - rows.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return np.ascontiguousarray(axes[:, ::-1][:, :count])


def _spread(total: int, wanted: int) -> I64:
    """At most `wanted` row numbers of `total`, evenly apart."""
    return np.linspace(0, total - 1, min(total, wanted)).astype(np.int64)
