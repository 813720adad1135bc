"""What faiss is asked to do, beside the results that test_search.py compares."""

import contextlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.errors import MissingExtraError
from icgan_runtime.search.choose import choose_search

pytest.importorskip("faiss")
import faiss

from icgan_runtime.search import faiss as search_faiss


def bank_of(count: int, width: int = 12, seed: int = 0) -> Bank:
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return Bank("space", rows / np.linalg.norm(rows, axis=1, keepdims=True), np.arange(count) * 3, None, None)


def assert_found(search, bank: Bank, k: int = 5) -> None:
    """As numpy finds them."""
    queries = bank_of(4, bank.embeddings.shape[1], seed=1).embeddings
    for got, expected in zip(search(queries, k), choose_search(bank, "numpy")(queries, k), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.fixture
def gpu(monkeypatch):
    """A faiss with a GPU that is none; returns the resources and widths it was asked for."""
    asked: list[tuple[object, int]] = []

    def index(resources, width):
        asked.append((resources, width))
        return faiss.IndexFlatIP(width)

    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatIP", index, raising=False)
    return asked


def test_a_gpu_gets_the_bank_in_parts_and_finds_the_same(gpu, monkeypatch):
    monkeypatch.setattr(search_faiss, "ROWS_AT_ONCE", 7)
    bank = bank_of(30)
    search = choose_search(bank, "faiss-gpu")
    assert (search.name, search.reason, search.bank) == ("faiss-gpu", "asked for", bank)
    assert gpu == [("resources", 12)]
    assert_found(search, bank)


def test_threads_take_turns_on_a_gpu(gpu, monkeypatch):
    """The memory of its resources is for one thread."""
    bank, company, met = bank_of(30), threading.Barrier(2), []
    search = faiss.IndexFlatIP.search

    def search_in_company(self, embedding, wanted):
        with contextlib.suppress(threading.BrokenBarrierError):
            met.append(company.wait(0.2))
        return search(self, embedding, wanted)

    monkeypatch.setattr(faiss.IndexFlatIP, "search", search_in_company)
    on_gpu = choose_search(bank, "faiss-gpu")
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: on_gpu(bank.embeddings[:1], 3), range(2)))
    assert len(found) == 2
    assert met == []


def test_ties_of_more_instances_than_a_gpu_selects_are_found_all_the_same(gpu, monkeypatch):
    """Anybody can send an embedding that is orthogonal to the whole bank, beside those of others."""
    asked: list[int] = []

    def index(resources, width):
        flat = faiss.IndexFlatIP(width)

        def search(embedding, wanted):
            asked.append(wanted)
            if wanted > 2048:
                raise RuntimeError("GPU index only supports min/max-K selection up to 2048")
            return flat.search(embedding, wanted)

        return SimpleNamespace(d=width, add=flat.add, search=search)

    monkeypatch.setattr(faiss, "GpuIndexFlatIP", index)
    bank = bank_of(3000)
    bank.embeddings[:, 11] = 0
    bank.embeddings[:] /= np.linalg.norm(bank.embeddings, axis=1, keepdims=True)
    orthogonal = np.eye(12, dtype=np.float32)[[11]]
    queries = np.concatenate([bank.embeddings[:2], orthogonal, bank.embeddings[2:3]])
    found = choose_search(bank, "faiss-gpu")(queries, 5)
    for got, expected in zip(found, choose_search(bank, "numpy")(queries, 5), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert max(asked) == 2048


@pytest.mark.parametrize("lacking", ["StandardGpuResources", "get_num_gpus"])
def test_a_gpu_needs_its_faiss_and_a_device(gpu, monkeypatch, lacking):
    if lacking == "get_num_gpus":
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    else:
        monkeypatch.delattr(faiss, lacking)
    with pytest.raises(MissingExtraError) as caught:
        choose_search(bank_of(5), "faiss-gpu")
    expected = "faiss-gpu-cu12, and a GPU is not installed: pip install 'icgan[faiss-gpu]'"
    assert str(caught.value) == expected


def test_candidates_are_asked_for_until_the_first_left_out_is_clearly_worse():
    asked: list[int] = []

    def search(embedding, wanted):
        assert embedding.flags.c_contiguous
        asked.append(wanted)
        scores = np.full((len(embedding), wanted), 0.5, np.float32)
        scores[:, 20:] = 0.4
        return scores, np.tile(np.arange(wanted), (len(embedding), 1))

    index: Any = SimpleNamespace(d=12, search=search)
    propose = search_faiss.exactly(index, 1000)
    queries = np.zeros((12, 2), np.float32).T
    assert [len(rows) for rows in propose(queries, 2)] == [20, 20], "those that might be among the best"
    assert asked == [4, 16, 64]
    asked.clear()
    assert len(search_faiss.exactly(index, 19)(queries, 2)[0]) == 19
    assert asked == [4, 16, 19], "all there are"


@pytest.mark.parametrize(("rows", "threads"), [(1000, 1), (1 << 19, None)])
def test_a_small_index_is_searched_by_the_calling_thread_alone(rows, threads):
    usual = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    seen = []

    def search(embedding, wanted):
        seen.append(faiss.omp_get_max_threads())
        return np.arange(wanted, 0, -1)[None], np.arange(wanted)[None]

    try:
        index: Any = SimpleNamespace(d=8, search=search)
        search_faiss.exactly(index, rows)(np.zeros((1, 8), np.float32), 1)
        assert seen == [threads or 3]
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(usual)


def test_the_approximate_search_is_exact_where_it_reads_every_list(monkeypatch):
    monkeypatch.setattr(search_faiss, "ROWS_AT_ONCE", 100)
    bank = bank_of(900)
    search = search_faiss.faiss_ivf_search(bank, "why not", probes=22)  # 900 // 40 lists
    assert (search.name, search.reason, search.bank) == ("faiss-ivf", "why not", bank)
    assert_found(search, bank)
    assert_found(search, bank, k=100)
    few = search_faiss.faiss_ivf_search(bank, "", probes=1)
    queries = bank_of(50, seed=2).embeddings
    agree = few(queries, 5)[0] == search(queries, 5)[0]
    assert 0.1 < agree.mean() < 0.9, "one list of twenty-two misses some"


def test_the_approximate_index_is_as_large_as_it_says(monkeypatch):
    made = []
    quantiser = faiss.IndexIVFScalarQuantizer

    def index(*arguments):
        made.append((arguments[1:], quantiser(*arguments)))
        return made[-1][1]

    monkeypatch.setattr(faiss, "IndexIVFScalarQuantizer", index)
    for count, width in ((30, 12), (3600, 12), (400, 300)):
        search_faiss.faiss_ivf_search(bank_of(count, width), "")
        (components, lists, kind, metric), built = made.pop()
        assert components == min(width, 256)
        assert lists == max(1, min(int(math.sqrt(count)), count // 40))
        assert (kind, metric) == (faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2)
        assert (built.ntotal, built.cp.niter) == (count, 6)


def test_principal_axes_are_the_orthonormal_directions_of_most_spread():
    rng = np.random.default_rng(0)
    spread = np.array([1, 5, 3, 0.5])
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    rows = (rng.normal(size=(2000, 4)) * spread @ turn + 7).astype(np.float32)
    axes = search_faiss.principal_axes(rows, 2)
    assert axes.shape == (4, 2)
    assert axes.flags.c_contiguous
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-5)
    np.testing.assert_allclose(np.std(rows @ axes, axis=0), [5, 3], rtol=0.1)
    assert search_faiss.principal_axes(rows, 9).shape == (4, 4)


@pytest.mark.parametrize(
    ("total", "wanted", "rows"),
    [(10, 3, [0, 4, 9]), (3, 10, [0, 1, 2]), (1, 1, [0]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_rows_to_learn_from_lie_evenly_apart(total, wanted, rows):
    found = search_faiss._spread(total, wanted)
    assert found.tolist() == rows
    assert found.dtype == np.int64
