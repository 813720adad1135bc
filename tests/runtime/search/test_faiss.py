"""What faiss is asked to do, beside the results that test_search.py compares."""

import contextlib
import dataclasses
import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.errors import BundleError, MissingExtraError, RequestError
from icgan_runtime.search.choose import choose_search
from icgan_runtime.search.others import spread

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

    propose = search_faiss.exactly(search, (1000, 2))
    queries = np.zeros((12, 2), np.float32).T
    assert [len(rows) for rows in propose(queries, 2)] == [20, 20], "those that might be among the best"
    assert asked == [4, 16, 64]
    asked.clear()
    assert len(search_faiss.exactly(search, (19, 2))(queries, 2)[0]) == 19
    assert asked == [4, 16, 19], "all there are"


@pytest.mark.parametrize(("rows", "threads"), [(1000, 1), (1 << 19, None)])
def test_a_small_bank_is_searched_by_the_calling_thread_alone(rows, threads):
    usual = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    seen = []

    def search(embedding, wanted):
        seen.append(faiss.omp_get_max_threads())
        return np.arange(wanted, 0, -1)[None], np.arange(wanted)[None]

    try:
        search_faiss.exactly(search, (rows, 8))(np.zeros((1, 8), np.float32), 1)
        assert seen == [threads or 3]
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(usual)


def test_the_bank_is_in_memory_once():
    bank = bank_of(40_000, 512)  # 82 MB
    before = private_memory()
    search = choose_search(bank, "faiss")
    assert_found(search, bank)
    assert private_memory() - before < bank.embeddings.nbytes / 2


def private_memory() -> int:
    """Bytes that only this process has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_the_approximate_search_is_exact_where_it_reads_every_cell(monkeypatch):
    monkeypatch.setattr(search_faiss, "ROWS_AT_ONCE", 100)
    monkeypatch.setattr(search_faiss, "RECALL", (1.0, 1.0))
    bank = bank_of(900)
    search = search_faiss.faiss_ivf_search(bank, "why not")  # 900 // 40 cells
    assert (search.name, search.bank) == ("faiss-ivf", bank)
    assert search.reason == "why not; built at the start (icgan index stores it)"
    assert_found(search, bank)
    assert_found(search, bank, k=100)


def test_a_bank_that_is_hard_to_search_has_more_of_its_cells_read(monkeypatch):
    """Random vectors have no cells: a query's neighbours are anywhere."""
    monkeypatch.setattr(search_faiss, "PROBES", 1)
    monkeypatch.setattr(search_faiss, "CANDIDATES", 2)
    bank = bank_of(900)
    about = search_faiss.build_cells(bank).about
    assert about.probes > 4
    assert about.recall_at_1 >= 0.99
    assert about.recall_at_10 >= 0.95
    monkeypatch.setattr(search_faiss, "RECALL", (0.2, 0.0))
    assert search_faiss.build_cells(bank).about.probes < about.probes


def test_a_bank_that_this_index_cannot_serve_is_refused_with_what_to_use(monkeypatch):
    monkeypatch.setattr(search_faiss, "COMPONENTS", 1)
    monkeypatch.setattr(search_faiss, "MOST_CANDIDATES", 64)
    words = r"finds 0\.\d+ of the nearest .* 0\.99 and 0\.95 are wanted; use faiss"
    with pytest.raises(RequestError, match=words):
        search_faiss.faiss_ivf_search(bank_of(900), "")


def test_a_stored_index_finds_what_the_built_one_finds(tmp_path):
    bank = bank_of(900)
    cells = search_faiss.build_cells(bank, "a" * 64)
    dataclasses.replace(bank, cells=cells).write(tmp_path)
    stored = Bank.read(tmp_path)
    assert stored.cells is not None
    assert stored.cells.about == cells.about
    search = choose_search(stored)
    assert (search.name, search.reason) == ("faiss-ivf", "the bank has an index")
    queries = bank_of(50, seed=2).embeddings
    built = search_faiss.faiss_ivf_search(bank, "")
    assert np.array_equal(search(queries, 7)[0], built(queries, 7)[0])
    assert np.array_equal(search(queries, 7)[1], built(queries, 7)[1])


@pytest.mark.parametrize(
    ("file", "index", "value", "words"),
    [
        ("index_sizes.npy", 0, -1, "do not hold 900 instances together"),
        ("index_rows.npy", 3, 900, "a row beyond the 900 of the bank"),
        ("index_rows.npy", 3, -1, "a row beyond the 900 of the bank"),
        ("index_axes.npy", 0, np.nan, "not finite"),
    ],
)
def test_a_damaged_index_is_refused_before_faiss_sees_it(file, index, value, words, tmp_path):
    bank = bank_of(900)
    dataclasses.replace(bank, cells=search_faiss.build_cells(bank)).write(tmp_path)
    array = np.load(tmp_path / file)
    array.reshape(-1)[index] = value
    np.save(tmp_path / file, array)
    with pytest.raises(BundleError, match=words):
        Bank.read(tmp_path)


def test_an_index_of_another_bank_is_refused(tmp_path):
    bank = bank_of(900)
    dataclasses.replace(bank, cells=search_faiss.build_cells(bank)).write(tmp_path)
    for name in ("embeddings.npy", "ids.npy"):
        np.save(tmp_path / name, np.load(tmp_path / name)[:800])
    about = json.loads((tmp_path / "bank.json").read_text())
    (tmp_path / "bank.json").write_text(json.dumps({**about, "count": 800}))
    with pytest.raises(BundleError, match="an index of 900 × 12, the bank has 800 × 12"):
        Bank.read(tmp_path)


def test_the_approximate_index_is_as_large_as_it_says(monkeypatch):
    made = []
    quantiser = faiss.IndexIVFScalarQuantizer

    def index(*arguments):
        made.append((arguments[1:], quantiser(*arguments)))
        return made[-1][1]

    monkeypatch.setattr(faiss, "IndexIVFScalarQuantizer", index)
    for count, width in ((30, 12), (3600, 12), (400, 300)):
        search_faiss.faiss_ivf_search(bank_of(count, width), "")
        made.pop()  # that which the arrays are copied into
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
    found = spread(total, wanted)
    assert found.tolist() == rows
    assert found.dtype == np.int64
