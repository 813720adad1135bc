"""Nearest instances with faiss; the only file of the runtime that imports it."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import faiss
import numpy as np

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.cells import AboutCells, Cells
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.search.base import F32, I64, ROUNDING, Propose, Search
from icgan_runtime.search.numpy import numpy_search
from icgan_runtime.search.others import spread
from icgan_runtime.search.recall import nearest_others, recall_of_others

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
MOST_CANDIDATES = 4096
RECALL = (
    0.99,
    0.95,
)  # of the nearest and of the ten nearest; probes and candidates double until it is reached
QUERIES = 200  # instances that it is measured on
# Of an exact search: below this a second thread costs more than it saves, above all beside other programs.
ONE_THREAD_BELOW_BYTES = 16 << 20
# As many numbers of embeddings at a time are multiplied as matrices: eight rows of 1280 take half the time
# then, 32 a quarter. faiss (1.15) begins at 128,000; older ones count rows, and begin at 20.
MATRICES_FROM = 10_000
ROWS_AT_ONCE = 65_536  # of a bank that may be mapped from disk
GPU_CANDIDATES = 2048  # faiss's kernels refuse to select more; twice MAX_NEIGHBOURS


def faiss_search(bank: Bank, reason: str) -> Search:
    """Every instance compared, where it lies: an index would hold the bank a second time."""
    stored = np.ascontiguousarray(bank.embeddings)
    if faiss.cvar.distance_compute_blas_threshold > MATRICES_FROM:
        faiss.cvar.distance_compute_blas_threshold = MATRICES_FROM

    def search(embedding: F32, count: int) -> tuple[F32, I64]:
        scores, rows = faiss.knn(embedding, stored, count, metric=faiss.METRIC_INNER_PRODUCT)
        return scores, rows

    return Search("faiss", reason, bank, exactly(search, stored.shape))


def faiss_gpu_search(bank: Bank, reason: str) -> Search:
    """The same on the first visible GPU. Raises MissingExtraError when this faiss knows no GPU.

    Embeddings come from and go to host memory, a few kB per query, since exact scores are computed there.
    """
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        raise MissingExtraError("faiss-gpu-cu12, and a GPU", "faiss-gpu")
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), bank.embeddings.shape[1])
    for start in range(0, len(bank), ROWS_AT_ONCE):
        index.add(np.ascontiguousarray(bank.embeddings[start : start + ROWS_AT_ONCE]))
    rest = numpy_search(bank, reason).propose
    propose = exactly(index.search, bank.embeddings.shape, GPU_CANDIDATES, rest)
    turn = threading.Lock()

    def one_at_a_time(embedding: F32, count: int) -> list[I64]:
        with turn:  # the memory of one StandardGpuResources serves one thread
            return propose(embedding, count)

    return Search("faiss-gpu", reason, bank, one_at_a_time)


def exactly(
    search: Callable[[F32, int], tuple[F32, I64]],
    shape: tuple[int, ...],
    most: int | None = None,
    rest: Propose | None = None,
) -> Propose:
    """Candidates from an exact search among `shape` numbers, with everything that might tie with the last.

    One that gives at most `most` of them leaves embeddings with more ties to `rest`.
    """
    total = shape[0]
    small = 4 * total * shape[1] < ONE_THREAD_BELOW_BYTES

    def propose(embedding: F32, count: int) -> list[I64]:
        limit = total if most is None else min(most, total)
        wanted = min(2 * count, limit)
        while True:
            with one_thread() if small else nullcontext():
                scores, rows = search(np.ascontiguousarray(embedding), wanted)
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


def faiss_ivf_search(bank: Bank, reason: str) -> Search:
    """The approximate index: the bank's stored one, or one built here, which takes its time at every start.

    A query reads a few cells of the bank. The neighbours found are scored and ordered exactly; a nearer one
    in a cell that was not read is missed. Raises RequestError for a bank that it does not suit.
    """
    if bank.cells is not None:
        return Search("faiss-ivf", reason, bank, in_cells(bank.cells))
    built = f"{reason}; built at the start (icgan index stores it)"
    return Search("faiss-ivf", built, bank, in_cells(build_cells(bank)))


def build_cells(bank: Bank, sha256: str = "") -> Cells:
    """Index a bank whose embeddings.npy has this SHA-256, and read as many cells as its recall needs."""
    count, width = bank.embeddings.shape
    lists = max(1, min(int(LISTS_PER_ROOT * math.sqrt(count)), count // TRAINING_ROWS_PER_LIST))
    some = bank.embeddings[spread(count, lists * TRAINING_ROWS_PER_LIST)]
    axes = principal_axes(some[spread(len(some), AXES_ROWS)], COMPONENTS)
    # unit vectors: the nearest is the one with the largest product, and distances survive a projection
    index = _empty(axes.shape[1], lists)
    index.cp.niter = TRAINING_ROUNDS
    index.train(some @ axes)
    for start in range(0, count, ROWS_AT_ONCE):
        index.add(bank.embeddings[start : start + ROWS_AT_ONCE] @ axes)
    inverted: Any = index.invlists
    sizes = np.array([inverted.list_size(cell) for cell in range(lists)])
    full = np.flatnonzero(sizes).tolist()
    rows = [faiss.rev_swig_ptr(inverted.get_ids(cell), int(sizes[cell])).copy() for cell in full]
    codes = [
        faiss.rev_swig_ptr(inverted.get_codes(cell), int(sizes[cell]) * index.code_size).copy()
        for cell in full
    ]
    cells = Cells(
        AboutCells(sha256, count, width, axes.shape[1], lists, PROBES, CANDIDATES, 0.0, 0.0, 1),
        axes,
        index.quantizer.reconstruct_n(0, lists),
        faiss.vector_to_array(index.sq.trained).copy(),
        sizes.astype(np.int64),
        np.concatenate(rows),
        np.concatenate(codes).reshape(count, -1),
    )
    return _wide_enough(bank, cells, index)


def _wide_enough(bank: Bank, cells: Cells, index: faiss.IndexIVF) -> Cells:
    """`cells` with the fewest probes and candidates whose measured recall is within RECALL."""
    about = cells.about
    queries = spread(about.count, QUERIES)
    k = min(10, about.count - 1)
    if k == 0:
        return dataclasses.replace(cells, about=dataclasses.replace(about, recall_at_1=1.0, recall_at_10=1.0))
    expected = nearest_others(bank, queries, k)
    probes, candidates = PROBES, CANDIDATES
    while True:
        probes, candidates = min(probes, about.cells), min(candidates, about.count)
        find = Search("", "", bank, _propose(index, cells.axes, probes, candidates))
        at_1, at_10 = recall_of_others(find, queries, expected)
        if at_1 >= RECALL[0] and at_10 >= RECALL[1]:
            measured = dataclasses.replace(
                about,
                probes=probes,
                candidates=candidates,
                recall_at_1=at_1,
                recall_at_10=at_10,
                queries=len(queries),
            )
            return dataclasses.replace(cells, about=measured)
        if probes == about.cells and candidates in (about.count, MOST_CANDIDATES):
            raise RequestError(
                "search",
                f"faiss-ivf finds {at_1:.3f} of the nearest and {at_10:.3f} of the ten nearest instances of "
                f"this bank, {RECALL[0]} and {RECALL[1]} are wanted; use faiss",
            )
        probes, candidates = 2 * probes, min(2 * candidates, MOST_CANDIDATES)


def in_cells(cells: Cells) -> Propose:
    """Candidates from a stored index, which is copied into faiss: 264 bytes an instance."""
    about = cells.about
    index = _empty(about.components, about.cells)
    index.quantizer.add(np.ascontiguousarray(cells.centroids))
    faiss.copy_array_to_vector(np.array(cells.scale), index.sq.trained)
    index.is_trained = True
    inverted: Any = index.invlists
    ends = np.cumsum(cells.sizes)
    for cell, (size, end) in enumerate(zip(cells.sizes.tolist(), ends.tolist(), strict=True)):
        if size:
            rows = np.ascontiguousarray(cells.rows[end - size : end])
            codes = np.ascontiguousarray(cells.codes[end - size : end])
            inverted.add_entries(cell, size, faiss.swig_ptr(rows), faiss.swig_ptr(codes))
    index.ntotal = about.count
    return _propose(index, cells.axes, about.probes, about.candidates)


def _empty(components: int, cells: int) -> faiss.IndexIVFScalarQuantizer:
    return faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(components), components, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )


def _propose(index: faiss.IndexIVF, axes: F32, probes: int, candidates: int) -> Propose:
    across = np.ascontiguousarray(axes.T)

    def propose(embedding: F32, wanted: int) -> list[I64]:
        reach, read = min(max(2 * wanted, candidates), index.ntotal), min(probes, index.nlist)
        # by numpy itself: a product of one row makes a BLAS wait for its threads, on a busy machine for long
        queries = np.stack([np.einsum("wd,d->w", across, row) for row in embedding])
        while True:
            parameters = faiss.SearchParametersIVF(nprobe=read)  # type: ignore[call-arg]  # its stub says less
            with one_thread() if len(queries) == 1 else nullcontext():
                _, rows = index.search(queries, reach, params=parameters)
            found = [row[row >= 0] for row in rows]  # -1 where the cells that were read held too few
            if read == index.nlist or all(len(row) >= wanted for row in found):
                return found
            read = min(2 * read, index.nlist)

    return propose


def principal_axes(rows: F32, count: int) -> F32:
    """[D, at most `count`]: the orthonormal directions in which `rows` [N, D] differ most."""
    centred = rows - rows.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return np.ascontiguousarray(axes[:, ::-1][:, :count])
