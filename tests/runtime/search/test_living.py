"""A bank that changes is searched as one written anew would be, whatever stands behind it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.changes import Base, Changes, Record, State
from icgan_runtime.bundle.living import Living
from icgan_runtime.search.living import LivingSearch
from icgan_runtime.search.numpy import numpy_search
from icgan_runtime.search.others import spread

WIDTH = 24
START = Base("a" * 64, 0, "a" * 64, 100_000)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def living_bank(count: int, seed: int = 0) -> tuple[Living, np.random.Generator]:
    """Instances around 40 centres, every eighth a copy of another: ties are everywhere."""
    rng = np.random.default_rng(seed)
    rows = unit(
        rng.normal(size=(40, WIDTH))[rng.integers(40, size=count)] + 0.2 * rng.normal(size=(count, WIDTH))
    )
    rows[::8] = rows[rng.integers(count, size=len(rows[::8]))]
    return Living(Bank("space", rows, np.arange(count) * 3, None, None), START, 0), rng


def change(living: Living, added: np.ndarray, removed: list[int]) -> None:
    ids = living.next_id + np.arange(len(added))
    made = Changes(ids, added, None, None, None, np.array(removed, np.int64))
    living.apply([Record(State(living.state.number + len(made), "b" * 64), made)])


def written_anew(living: Living) -> Bank:
    bank = living.bank()
    return Bank("space", np.asarray(bank.embeddings), bank.ids.copy(), None, None)


@pytest.mark.parametrize("wanted", ["numpy", "faiss"])
def test_neighbours_are_those_of_a_bank_written_anew(wanted):
    if wanted == "faiss":
        pytest.importorskip("faiss")
    living, rng = living_bank(400)
    search = LivingSearch(living, wanted)
    for _ in range(12):
        bank = written_anew(living)
        queries = np.concatenate([bank.embeddings[spread(len(bank), 5)], unit(rng.normal(size=(5, WIDTH)))])
        for k in (1, 10, len(bank)):
            ids, scores = search.current()(queries, k)
            expected = numpy_search(bank, "")(queries, k)
            np.testing.assert_array_equal(ids, expected[0])
            np.testing.assert_array_equal(scores, expected[1])
        copies = np.asarray(bank.embeddings)[rng.integers(len(bank), size=20)]
        near, _ = search.current()(queries[:1], 15)  # all that was nearest goes
        others = rng.choice(np.setdiff1d(bank.ids, near[0]), 10, replace=False).tolist()
        change(
            living, np.concatenate([copies, unit(rng.normal(size=(10, WIDTH)))]), near[0].tolist() + others
        )


def test_all_that_is_stored_may_go_and_additions_answer_alone():
    living, rng = living_bank(50)
    added = unit(rng.normal(size=(30, WIDTH)))
    change(living, added, living.base.ids.tolist())
    ids, _ = LivingSearch(living, "numpy").current()(added, 30)
    assert ids[:, 0].tolist() == list(range(100_000, 100_030))


def test_an_index_stays_and_what_came_since_is_compared_exactly():
    pytest.importorskip("faiss")
    living, rng = living_bank(4000)
    search = LivingSearch(living, "faiss-ivf")
    added = unit(rng.normal(size=(500, WIDTH)))
    change(living, added, living.base.ids[::9].tolist())
    ids, _ = search.current()(added, 1)
    assert search.current().name == "faiss-ivf"
    assert ids[:, 0].tolist() == list(range(100_000, 100_500))
    bank = written_anew(living)
    found, _ = search.current()(bank.embeddings[:300], 10)
    expected, _ = numpy_search(bank, "")(bank.embeddings[:300], 10)
    assert not np.isin(living.base.ids[::9], found).any()
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)]) > 0.95


def test_a_search_stays_that_of_its_state():
    living, rng = living_bank(100)
    search = LivingSearch(living, "numpy")
    change(living, unit(rng.normal(size=(3, WIDTH))), [])
    queries = np.asarray(living.added)
    before = search.current()
    ids, _ = before(queries, 5)
    for _ in range(5):
        change(living, queries, living.bank().ids[:9].tolist())
    assert (search.current()(queries, 5)[0] != ids).any()
    np.testing.assert_array_equal(before(queries, 5)[0], ids)
    assert len(before.bank) == 103


def test_the_bank_of_a_state_gives_its_rows_as_an_array_does():
    living, rng = living_bank(20)
    change(living, unit(rng.normal(size=(4, WIDTH))), [3, 57])
    change(living, unit(rng.normal(size=(0, WIDTH))), [100_000])
    bank = living.bank()
    whole = np.asarray(bank.embeddings)
    assert whole.shape == bank.embeddings.shape == (21, WIDTH)
    for key in (0, -1, slice(3, 19, 2), [1, 20, 1], np.arange(21) % 3 == 0, np.array([[0, 20], [5, 4]])):
        np.testing.assert_array_equal(bank.embeddings[key], whole[key])
    np.testing.assert_allclose(bank.embeddings @ whole[2], whole @ whole[2], atol=1e-6)
    with pytest.raises(Exception, match="unit length"):
        dataclasses.replace(bank, embeddings=2 * whole)  # what is not ours is looked at
