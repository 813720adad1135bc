import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.search.base import exact_scores
from icgan_runtime.search.choose import choose_search

pytest.importorskip("faiss")


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def bank_of(embeddings, ids=None) -> Bank:
    ids = np.arange(len(embeddings)) if ids is None else np.asarray(ids)
    return Bank("space", unit(embeddings), ids, None, None)


def brute_force(bank, embedding, k):
    """Sort everything by (score, id) in plain Python."""
    ids, scores = [], []
    for query in embedding.astype(np.float64):
        found = [np.float32((row * query).sum()) for row in bank.embeddings.astype(np.float64)]
        order = sorted(range(len(found)), key=lambda i: (-found[i], bank.ids[i]))[:k]
        ids.append(bank.ids[order])
        scores.append([found[i] for i in order])
    return np.array(ids), np.array(scores, np.float32)


coarse = st.sampled_from([-2.0, -1.0, 1.0, 2.0])  # few values, so that ties and duplicates abound


@settings(max_examples=60)
@given(data=st.data(), wanted=st.sampled_from(["numpy", "faiss"]))
def test_every_search_agrees_with_sorting_everything(data, wanted):
    count, width = data.draw(st.integers(1, 30)), data.draw(st.integers(2, 9))
    rows = data.draw(hnp.arrays(np.float32, (count, width), elements=coarse))
    ids = data.draw(st.lists(st.integers(0, 99), min_size=count, max_size=count, unique=True).map(sorted))
    queries = unit(data.draw(hnp.arrays(np.float32, (data.draw(st.integers(1, 3)), width), elements=coarse)))
    k = data.draw(st.integers(1, count))
    bank = bank_of(rows, ids)
    found, expected = choose_search(bank, wanted)(queries, k), brute_force(bank, queries, k)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 1e-8, 1e-6, 1e-4, 1e-2, 1.0]),
    wanted=st.sampled_from(["numpy", "faiss"]),
)
def test_neighbours_closer_than_rounding_come_in_the_order_of_brute_force(seed, spread, wanted):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(1, 48)) + spread * rng.normal(size=(60, 48))
    bank, queries = bank_of(rows, np.sort(rng.permutation(1000)[:60])), unit(rng.normal(size=(2, 48)))
    found, expected = choose_search(bank, wanted)(queries, 10), brute_force(bank, queries, 10)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def crowded(count=20_000, width=32, seed=0):
    """Rows around a few hundred centres, as pictures of the same things are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(300, width))
    return centres[rng.integers(0, 300, count)] + 0.3 * rng.normal(size=(count, width))


@pytest.mark.parametrize("width", [32, 512])
def test_the_approximate_search_finds_nearly_every_neighbour_and_scores_it_exactly(width):
    rows = crowded(width=width)
    bank, queries = bank_of(rows[200:]), unit(rows[:200])
    found, scores = choose_search(bank, "faiss-ivf")(queries, 10)
    expected, expected_scores = choose_search(bank, "faiss")(queries, 10)
    assert (found[:, 0] == expected[:, 0]).mean() >= 0.99
    same = found == expected
    np.testing.assert_array_equal(scores[same], expected_scores[same])
    assert (np.diff(scores, axis=1) <= 0).all()


def test_the_approximate_search_gives_as_many_as_asked_for():
    bank = bank_of(crowded(2000))
    ids, _ = choose_search(bank, "faiss-ivf")(bank.embeddings[:3], 1024)
    assert all(len(set(row)) == 1024 for row in ids)


def test_searching_on_a_gpu_without_one_names_the_package():
    with pytest.raises(MissingExtraError, match="faiss-gpu"):
        choose_search(bank_of(crowded(50)), "faiss-gpu")


def test_numpy_and_faiss_agree_to_the_bit_on_wide_embeddings():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 1280))
    rows[250:] = rows[:250]  # every instance stored twice
    bank, queries = bank_of(rows), unit(rng.normal(size=(20, 1280)))
    a, b = choose_search(bank, "numpy")(queries, 11), choose_search(bank, "faiss")(queries, 11)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])


def test_equal_instances_come_in_the_order_of_their_ids():
    bank = bank_of(np.ones((40, 7)), ids=range(100, 140))
    for wanted in ("numpy", "faiss"):
        ids, scores = choose_search(bank, wanted)(unit(np.ones((1, 7))), 3)
        assert ids.tolist() == [[100, 101, 102]]
        assert scores == pytest.approx(1)


@pytest.mark.parametrize("wanted", ["numpy", "faiss"])
def test_an_embedding_that_ties_with_the_whole_bank_takes_no_copies_of_it(wanted):
    """Orthogonal to every instance, as anybody can send one to a server."""
    rows = np.random.default_rng(0).normal(size=(20_000, 64))
    rows[:, 0] = 0
    bank, query = bank_of(rows), np.eye(1, 64, dtype=np.float32)
    search = choose_search(bank, wanted)
    tracemalloc.start()
    try:
        ids, scores = search(query, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ids.tolist() == [[0, 1, 2, 3, 4]]
    assert (scores == 0).all()
    assert peak < 2 * bank.embeddings.nbytes


@pytest.mark.parametrize("width", [12, 1280, 2047, 2048])
def test_equal_rows_score_equally_wherever_they_stand(width):
    rng = np.random.default_rng(0)
    row, query = unit(rng.normal(size=(1, width))), unit(rng.normal(size=(1, width)))[0]
    for count in (1, 2, 7, 40):
        for place in range(count):
            rows = unit(rng.normal(size=(count, width)))
            rows[place] = row
            assert exact_scores(query, rows)[place] == exact_scores(query, row)[0]


def test_the_rows_of_one_picture_are_searched_for_once():
    bank = bank_of(np.random.default_rng(0).normal(size=(50, 16)))
    search, asked = choose_search(bank), []

    def propose(embedding, count):
        asked.append(len(embedding))
        return search.propose(embedding, count)

    queries = bank.embeddings[[4, 4, 4, 9, 4, 7, 7]]
    found = dataclasses.replace(search, propose=propose)(queries, 5)
    assert asked == [4]
    for together, alone in zip(
        found, zip(*(search(row[None], 5) for row in queries), strict=True), strict=True
    ):
        np.testing.assert_array_equal(together, np.concatenate(alone))


def test_an_instance_is_its_own_nearest():
    bank = bank_of(np.random.default_rng(0).normal(size=(50, 16)))
    ids, scores = choose_search(bank)(bank.embeddings, 1)
    assert ids[:, 0].tolist() == list(range(50))
    np.testing.assert_allclose(scores, 1, atol=1e-6)


@pytest.mark.parametrize("wanted", ["numpy", "faiss", "faiss-ivf"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25, 0, 2])
def test_what_is_not_of_unit_length_is_not_searched_for(wanted, value):
    bank = bank_of(np.random.default_rng(0).normal(size=(50, 16)))
    queries = bank.embeddings[:3].copy()
    queries[1] = value
    with pytest.raises(RequestError, match=r"^embedding: .*, expected rows of length 1$"):
        choose_search(bank, wanted)(queries, 5)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_more_neighbours_than_instances_are_refused(k):
    with pytest.raises(RequestError, match=rf"k: {k}, expected 1\.\.5"):
        choose_search(bank_of(np.eye(5)), "numpy")(unit(np.eye(5)), k)


def test_the_choice_carries_its_reason(monkeypatch):
    bank = bank_of(np.eye(3))
    assert (choose_search(bank).name, choose_search(bank).reason) == ("faiss", "installed")
    assert choose_search(bank, "numpy").reason == "asked for"
    with pytest.raises(RequestError, match="search: 'annoy', expected one of auto, numpy, faiss"):
        choose_search(bank, "annoy")


def test_without_faiss_numpy_takes_over_unless_faiss_is_asked_for(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "icgan_runtime.search.faiss", None)
    bank = bank_of(np.eye(3))
    assert (choose_search(bank).name, choose_search(bank).reason) == ("numpy", "faiss is not installed")
    with pytest.raises(MissingExtraError, match=r"^faiss is not installed: pip install 'icgan\[faiss\]'$"):
        choose_search(bank, "faiss")
