import dataclasses
import subprocess
import sys
from datetime import timedelta

import numpy as np
import pytest
import torch.distributed as dist

from icgan_training.errors import DataError
from icgan_training.score import metrics
from icgan_training.score.metrics import (
    coverage,
    frechet_distance,
    inception_score,
    instance_similarity,
    kernel_distance,
    share_of_class,
)


def features(count, dim=24, shift=0.0, scale=1.0, seed=0):
    return np.random.default_rng(seed).normal(shift, scale, (count, dim)).astype(np.float32)


def independent_fid(real, fake):
    """The Fréchet distance by another route: symmetric square roots in double precision."""
    (m1, c1), (m2, c2) = ((x.mean(0), np.cov(x.astype(np.float64), rowvar=False)) for x in (real, fake))

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    trace = np.trace(root(root(c1) @ c2 @ root(c1)))
    return ((m1 - m2).astype(np.float64) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * trace


def independent_coverage(real, fake, k):
    """Precision, recall, density and coverage from full distance matrices."""

    def distances(a, b):
        return np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=2)

    real_radii = np.sort(distances(real, real), axis=1)[:, k]
    fake_radii = np.sort(distances(fake, fake), axis=1)[:, k]
    between = distances(real, fake)
    in_real = between <= real_radii[:, None]
    return (
        in_real.any(0).mean(),
        (between <= fake_radii).any(1).mean(),
        in_real.sum(0).mean() / k,
        in_real.any(1).mean(),
    )


def test_fid_agrees_with_an_independent_implementation():
    real, fake = features(600), features(500, shift=0.1, scale=1.2, seed=1)
    assert frechet_distance(real, fake) == pytest.approx(independent_fid(real, fake), abs=1e-3)


def test_fid_of_fewer_pictures_than_features_agrees_too():
    real, fake = features(30, dim=60), features(25, dim=60, shift=0.2, seed=1)
    assert frechet_distance(real, fake) == pytest.approx(independent_fid(real, fake), abs=1e-3)


def test_fid_of_many_pictures_is_taken_in_parts_and_agrees_too(monkeypatch):
    monkeypatch.setattr(metrics, "ROWS_PER_UPDATE", 256)
    real, fake = features(600), features(500, shift=0.1, scale=1.2, seed=1)
    assert frechet_distance(real, fake) == pytest.approx(independent_fid(real, fake), abs=1e-3)


def test_fid_of_a_set_with_itself_is_zero():
    assert frechet_distance(features(300), features(300)) == pytest.approx(0, abs=1e-4)


def test_kid_is_near_zero_for_equal_distributions_and_grows_with_their_distance():
    same, _ = kernel_distance(features(500), features(500, seed=1))
    near, _ = kernel_distance(features(500), features(500, shift=0.2, seed=1))
    far, _ = kernel_distance(features(500), features(500, shift=0.5, seed=1))
    assert abs(same) < 0.02 < near < far


def test_kid_is_repeatable():
    real, fake = features(1500), features(1200, seed=1)
    assert kernel_distance(real, fake) == kernel_distance(real, fake)


def test_precision_and_its_sisters_agree_with_full_distance_matrices():
    real, fake = features(2100, dim=4), features(300, dim=4, shift=0.5, scale=0.7, seed=1)
    found = coverage(real, fake, k=5)
    expected = independent_coverage(real, fake, k=5)
    np.testing.assert_allclose(
        [found.precision, found.recall, found.density, found.coverage], expected, atol=2e-3
    )


# What prdc 0.2, the package of density and coverage's authors, gives for these features with k = 3 and k = 5.
PRDC = {
    3: {"precision": 0.9325, "recall": 0.734, "density": 1.0125, "coverage": 0.556},
    5: {"precision": 0.99, "recall": 0.812, "density": 1.0355, "coverage": 0.692},
}


@pytest.mark.parametrize("k", PRDC)
def test_precision_and_its_sisters_are_those_of_the_authors_package(k):
    real, fake = features(500, dim=4), features(400, dim=4, shift=0.5, scale=0.7, seed=1)
    assert dataclasses.asdict(coverage(real, fake, k)) == pytest.approx(PRDC[k], abs=1e-12)


def test_precision_and_its_sisters_agree_with_prdc_where_it_is_installed():
    prdc = pytest.importorskip("prdc")
    real, fake = features(1500, dim=64), features(1300, dim=64, shift=0.1, scale=0.95, seed=1)
    expected = prdc.compute_prdc(real, fake, nearest_k=5)
    assert dataclasses.asdict(coverage(real, fake, k=5)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("copies", [1, 6, 7])
def test_copies_of_a_set_score_one_however_often_it_holds_each_picture(copies):
    real = np.repeat(features(200, dim=64, shift=3), copies, axis=0)
    found = coverage(real, np.random.default_rng(0).permutation(real), k=5)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density >= 1  # a copy may lie in the balls of all its copies


def test_what_lies_on_the_border_of_a_ball_is_inside():
    real = np.arange(6, dtype=np.float32)[:, None]  # radius 1 to the nearest other with k = 1
    fake = np.array([[6.0], [-1.0], [20.0]], np.float32)
    found = coverage(real, fake, k=1)
    assert found.precision == pytest.approx(2 / 3)
    assert found.coverage == pytest.approx(2 / 6)
    assert found.density == pytest.approx(2 / 3)


def test_samples_far_from_the_data_have_no_precision_and_cover_nothing():
    found = coverage(features(200), features(200, shift=50, seed=1))
    assert (found.precision, found.recall, found.density, found.coverage) == (0, 0, 0, 0)


def test_samples_that_all_are_one_picture_have_precision_but_no_coverage():
    real = features(300, dim=4)
    found = coverage(real, np.repeat(real[:1], 300, axis=0) + features(300, 4, scale=1e-4))
    assert found.precision == 1
    assert found.coverage < 0.1


def test_inception_score_is_one_for_flat_and_the_class_count_for_perfect_logits():
    flat, _ = inception_score(np.zeros((1000, 10), np.float32))
    perfect, _ = inception_score(np.eye(10, dtype=np.float32)[np.arange(1000) % 10] * 50)
    assert flat == pytest.approx(1)
    assert perfect == pytest.approx(10, rel=0.05)  # splits are small and a little uneven


OTHER_PROCESS = """
import sys
import torch.distributed as dist

dist.init_process_group("gloo", init_method=sys.argv[1], rank=1, world_size=2)
sys.stdin.read()
"""


@pytest.fixture
def first_of_two(tmp_path):
    """This process as the one that writes files; the other is busy with something else."""
    meeting = f"file://{tmp_path}/rendezvous"
    other = subprocess.Popen([sys.executable, "-c", OTHER_PROCESS, meeting], stdin=subprocess.PIPE)
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=2, timeout=timedelta(seconds=20))
    yield
    dist.destroy_process_group()
    other.communicate(timeout=60)


def test_one_of_several_processes_scores_without_asking_the_others(first_of_two):
    assert frechet_distance(features(300), features(300)) == pytest.approx(0, abs=1e-4)
    assert abs(kernel_distance(features(500), features(500, seed=1))[0]) < 0.02
    assert inception_score(np.zeros((100, 10), np.float32))[0] == pytest.approx(1)


def test_features_with_nan_are_refused():
    bad = features(50)
    bad[7] = np.nan
    with pytest.raises(DataError, match="generated pictures hold NaN"):
        frechet_distance(features(50), bad)


def test_too_few_pictures_for_the_neighbourhood_are_refused():
    with pytest.raises(DataError, match="more than 5 pictures"):
        coverage(features(5), features(50))


def test_a_single_picture_cannot_be_scored():
    with pytest.raises(DataError, match="1 generated"):
        frechet_distance(features(50), features(1))


def unit_rows(count, dim=24, seed=0):
    rows = features(count, dim, seed=seed)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_samples_that_equal_their_instance_follow_it_wholly():
    instances = unit_rows(50)
    found = instance_similarity(instances, instances, unit_rows(50, seed=1), np.arange(50))
    assert found.similarity == pytest.approx(1)
    assert found.own_is_nearer == 1
    assert abs(found.similarity_other) < 0.1
    assert abs(found.similarity_neighbour) < 0.1


def test_samples_that_know_nothing_of_their_instance_are_at_chance():
    found = instance_similarity(unit_rows(200, seed=1), unit_rows(200), unit_rows(200), np.arange(200))
    assert found.own_is_nearer == pytest.approx(0.5, abs=0.05)
    assert found.similarity == pytest.approx(found.similarity_other, abs=0.05)
    assert found.similarity_neighbour == pytest.approx(1)


def test_an_instance_drawn_twice_is_not_taken_for_another_one():
    instances = unit_rows(2)[[0, 0, 1]]
    found = instance_similarity(instances, instances, instances, np.array([0, 0, 1]))
    assert found.own_is_nearer == 1
    assert found.similarity_other == pytest.approx(float(instances[0] @ instances[2]))


def test_samples_of_a_single_instance_cannot_be_compared():
    instances = unit_rows(1).repeat(3, axis=0)
    with pytest.raises(DataError, match="all samples have one instance"):
        instance_similarity(instances, instances, instances, np.zeros(3, np.int64))


def test_the_class_of_a_picture_is_that_of_most_votes_and_of_equals_the_first():
    votes = np.array([[2, 1, 1], [3, 2, 1], [0, 0, 3], [5, 4, 4]])
    assert share_of_class(votes, np.array([1, 3, 0, 4])) == 1
    assert share_of_class(votes, np.array([2, 2, 3, 4])) == 0.25
