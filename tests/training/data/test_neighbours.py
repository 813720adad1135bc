import tracemalloc

import numpy as np
import pytest

from icgan_training.data.neighbours import (
    Neighbourhoods,
    kmeans_centroids,
    kmeans_instances,
    nearest_centroids,
    nearest_neighbours,
    neighbour_statistics,
    random_instances,
)
from icgan_training.errors import DataError


def unit_rows(count, dim=16, seed=0, centres=None):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, dim))
    if centres is not None:
        rows = centres[np.arange(count) % len(centres)] + 0.05 * rows
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_neighbours_are_those_of_a_plain_sort():
    rows = unit_rows(300)
    scores = rows @ rows.T
    np.fill_diagonal(scores, -2)
    found = nearest_neighbours(rows, 7)
    assert found.exact
    assert np.array_equal(found.indices, np.argsort(-scores, axis=1)[:, :7])
    distance = np.linalg.norm(rows[found.indices[:, -1]] - rows, axis=1)
    np.testing.assert_allclose(found.radii, distance, atol=1e-5)


def test_neighbours_are_found_across_the_blocks_that_rows_are_read_in(monkeypatch):
    rows = unit_rows(300)
    whole = nearest_neighbours(rows, 7)
    monkeypatch.setattr("icgan_training.data.neighbours.ROWS_PER_CALL", 99)  # the last block has 3 rows
    in_blocks = nearest_neighbours(rows, 7)
    assert np.array_equal(in_blocks.indices, whole.indices)
    np.testing.assert_allclose(in_blocks.radii, whole.radii, atol=1e-6)


def test_a_radius_is_the_distance_of_two_rows_however_many_are_compared_at_once(monkeypatch):
    # a matrix product of another shape, or by another number of threads, rounds otherwise
    rows = unit_rows(300, dim=1280)
    whole = nearest_neighbours(rows, 7)
    for together in (25, 99):
        monkeypatch.setattr("icgan_training.data.neighbours.ROWS_PER_CALL", together)
        parts = nearest_neighbours(rows, 7)
        assert parts.radii.tobytes() == whole.radii.tobytes()
        assert parts.indices.tobytes() == whole.indices.tobytes()


def test_a_row_is_never_its_own_neighbour_but_its_duplicate_is():
    rows = unit_rows(40)
    rows[5:15] = rows[5]  # more duplicates than neighbours asked for
    found = nearest_neighbours(rows, 3).indices
    assert not (found == np.arange(40)[:, None]).any()
    assert set(found[9]) <= set(range(5, 15))


@pytest.mark.parametrize(
    ("count", "k", "message"),
    [(5, 5, "--neighbours 4 or less"), (1, 1, "at least two"), (5, 0, "at least 1")],
)
def test_too_few_pictures_for_k_is_an_error_with_the_fix(count, k, message):
    with pytest.raises(DataError, match=message):
        nearest_neighbours(unit_rows(count), k)


def test_statistics_count_agreement_and_hubs():
    centres = np.eye(4, 16)
    rows, labels = unit_rows(80, centres=centres), np.arange(80) % 4
    statistics = neighbour_statistics(nearest_neighbours(rows, 5), labels)
    assert statistics.label_agreement == 1
    assert 5 <= statistics.most_wanted <= 19
    assert 0 <= statistics.never_wanted < 0.5
    assert neighbour_statistics(nearest_neighbours(rows, 5), None).label_agreement is None
    assert "label agreement 1.000" in str(statistics)


def test_the_summary_takes_less_memory_than_the_neighbourhoods():
    indices = np.random.default_rng(0).integers(0, 40_000, (40_000, 100), np.int32)
    neighbourhoods = Neighbourhoods(indices, np.ones(40_000, np.float32), exact=True)
    labels = np.arange(40_000) % 10
    tracemalloc.start()
    statistics = neighbour_statistics(neighbourhoods, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < indices.nbytes
    assert statistics.most_wanted == np.bincount(indices.ravel()).max()
    assert statistics.label_agreement == (indices % 10 == labels[:, None]).mean()


def test_kmeans_instances_cover_the_data_better_than_random_ones():
    rows = unit_rows(400, centres=np.eye(12, 16))

    def coverage(chosen):
        return (rows @ rows[chosen].T).max(axis=1).mean()

    by_kmeans = [coverage(kmeans_instances(rows, 12, seed)) for seed in range(3)]
    at_random = [coverage(random_instances(400, 12, seed)) for seed in range(3)]
    assert min(by_kmeans) > max(at_random)


def test_kmeans_instances_are_different_pictures_even_among_duplicates():
    rows = np.repeat(unit_rows(3), 10, axis=0)
    assert len(set(kmeans_instances(rows, 12))) == 12


def test_kmeans_takes_every_seed_that_the_rest_takes():
    assert kmeans_centroids(unit_rows(20), 3, seed=2**40).shape == (3, 16)


def test_a_cluster_label_is_that_of_most_neighbours():
    rows = unit_rows(90, centres=np.eye(6, 16))
    labels = nearest_centroids(rows, kmeans_centroids(rows, 3))
    assert set(labels) == {0, 1, 2}
    statistics = neighbour_statistics(nearest_neighbours(rows, 5), labels)
    assert statistics.label_agreement is not None
    assert statistics.label_agreement > 0.9


def test_random_instances_are_different_and_repeatable():
    assert len(set(random_instances(50, 20, seed=3))) == 20
    assert np.array_equal(random_instances(50, 20, seed=3), random_instances(50, 20, seed=3))


@pytest.mark.parametrize(
    "choose", [lambda n: random_instances(10, n), lambda n: kmeans_instances(unit_rows(10), n)]
)
@pytest.mark.parametrize("count", [0, 11])
def test_an_impossible_number_of_instances_is_refused(choose, count):
    with pytest.raises(DataError, match=f"cannot choose {count} instances"):
        choose(count)
