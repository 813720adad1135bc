import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from icgan_export.errors import ExportError
from icgan_export.lower.index import fits_graph, lookup_graph, nearest
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.search.choose import choose_search


def unit_rows(count: int, dim: int, seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def run(graph, queries):
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["ids", "scores"], {"embedding": queries})


def test_a_graph_holds_a_quarter_of_a_million_instances_of_2048_components():
    assert fits_graph(np.broadcast_to(np.float32(0), (250_000, 2048)))
    assert not fits_graph(np.broadcast_to(np.float32(0), (265_000, 2048)))


def test_the_graph_finds_what_numpy_finds() -> None:
    bank, ids, queries = unit_rows(50, 16, 0), np.arange(50) * 3 + 1, unit_rows(7, 16, 1)
    found, scores = run(lookup_graph(bank, ids, 5, {}), queries)
    expected_ids, expected_scores = nearest(bank, ids, queries, 5)
    np.testing.assert_array_equal(found, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_a_bank_with_nan_is_refused_before_it_can_hide_neighbours() -> None:
    bank = unit_rows(50, 16, 0)
    bank[9, 3] = np.nan
    with pytest.raises(ExportError, match="row 9 of the bank holds NaN"):
        lookup_graph(bank, np.arange(50), 5, {})


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 40), data=st.data())
def test_graph_and_runtime_agree_with_sorting_everything(seed: int, count: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    k = data.draw(st.integers(1, count))
    # signs / 4 in 16 dimensions: unit rows whose products are exact, and many of them equal
    bank, queries = (rng.choice([-0.25, 0.25], (n, 16)).astype(np.float32) for n in (count, 3))
    ids = np.sort(rng.permutation(1000)[:count]).astype(np.int64)
    products = queries @ bank.T
    expected = [sorted(range(count), key=lambda i: (-row[i], ids[i]))[:k] for row in products]
    searches = [run(lookup_graph(bank, ids, k, {}), queries), nearest(bank, ids, queries, k)]
    stored = Bank("space", bank, ids, None, None)
    searches += [choose_search(stored, name)(queries, k) for name in ("numpy", "faiss")]
    for found, scores in searches:
        np.testing.assert_array_equal(found, ids[expected])
        np.testing.assert_array_equal(scores, np.take_along_axis(products, np.array(expected), 1))


def test_ties_go_to_the_smaller_id_whatever_the_order_of_the_bank() -> None:
    row = unit_rows(1, 8, 0)
    bank = np.repeat(row, 4, axis=0)
    ids = np.array([9, 2, 7, 4])
    found, _ = run(lookup_graph(bank, ids, 3, {}), row)
    assert found[0].tolist() == [2, 4, 7]
    assert nearest(bank, ids, row, 3)[0][0].tolist() == [2, 4, 7]
