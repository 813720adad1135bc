"""Whether samples are copies of training pictures."""

import numpy as np
import pytest

from icgan_training.errors import DataError
from icgan_training.score.copies import CLOSEST, nearest_pictures, score_copies


def features(count, dim=24, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def beside(rows, distance=0.01, seed=9):
    """Rows at the given distance of those given."""
    steps = features(len(rows), rows.shape[1], seed)
    return rows + distance * steps / np.linalg.norm(steps, axis=1, keepdims=True)


def test_the_nearest_pictures_are_those_of_full_distance_matrices():
    real, fake = features(300), features(200, seed=1)
    between = np.linalg.norm(fake[:, None].astype(np.float64) - real[None], axis=2)
    own = np.linalg.norm(real[:, None].astype(np.float64) - real[None], axis=2)
    np.fill_diagonal(own, np.inf)
    found = nearest_pictures(real, fake)
    np.testing.assert_array_equal(found.picture, between.argmin(axis=1))
    np.testing.assert_allclose(found.ratio, between.min(axis=1) / own.min(axis=1)[found.picture], rtol=1e-6)
    assert found.authenticity == (found.ratio > 1).mean()
    assert 0.3 < found.authenticity < 1


def test_training_pictures_and_what_lies_beside_them_are_copies():
    real = features(300)
    assert nearest_pictures(real, real[50:150]).authenticity == 0
    found = nearest_pictures(real, beside(real))
    assert found.authenticity == 0
    np.testing.assert_array_equal(found.picture, np.arange(300))


def test_samples_far_from_every_picture_are_no_copies():
    assert nearest_pictures(features(300), features(300, seed=1) + 50).authenticity == 1


def test_of_a_picture_that_is_there_twice_only_an_equal_is_a_copy():
    real = features(100)
    real[1] = real[0]
    found = nearest_pictures(real, np.concatenate([beside(real[:1]), real[1:2]]))
    assert set(found.picture) <= {0, 1}
    assert found.ratio.tolist() == [np.inf, 0]


def test_new_pictures_score_as_pictures_left_out():
    scores, _ = score_copies(features(3000, 8), features(300, 8, seed=1), np.arange(3000))
    assert scores["authenticity"] == pytest.approx(scores["authenticity_of_real"], abs=0.1)


def test_the_closest_samples_are_named_with_the_row_their_picture_has_in_the_data_set():
    real, order = features(300), np.random.default_rng(3).permutation(300)
    fake = features(200, seed=1) + 5
    fake[40], fake[7] = beside(real[11:12])[0], beside(real[12:13], 0.05)[0]
    _, closest = score_copies(real, fake, order)
    assert [(pair.sample, pair.picture) for pair in closest[:2]] == [(40, order[11]), (7, order[12])]
    ratios = [pair.ratio for pair in closest]
    assert ratios == sorted(ratios)
    assert len(closest) == CLOSEST


def test_too_few_pictures_to_leave_some_out_are_refused():
    with pytest.raises(DataError, match="copies needs 20 real pictures or more, given 19"):
        score_copies(features(19), features(50, seed=1), np.arange(19))


def test_features_with_nan_are_refused():
    with pytest.raises(DataError, match="real pictures hold NaN"):
        nearest_pictures(np.full((30, 4), np.nan, np.float32), features(5, 4))
