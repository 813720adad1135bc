"""Priors: what they keep of pictures, and what they draw."""

import numpy as np
import pytest

from icgan_training.data.prior import LEAST, fit_prior
from icgan_training.errors import DataError


def clustered(count: int, groups: int = 4, width: int = 16, seed: int = 0):
    """Unit rows [count, width] around as many directions as groups, and which each is near to."""
    rng = np.random.default_rng(seed)
    group = np.arange(count) % groups
    rows = np.eye(groups, width)[group] + 0.1 * rng.normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), group


def test_no_centre_is_of_fewer_pictures_than_the_least():
    rows, _ = clustered(201)
    rows[200] = np.eye(16)[9]  # unlike all others: a group of its own, which would be that picture
    prior = fit_prior(rows, 40)
    assert 4 <= len(prior) <= 40
    assert prior.least >= LEAST
    assert prior.counts.sum() == 201
    lengths = np.linalg.norm(prior.centres, axis=1, keepdims=True)
    assert (prior.centres / lengths @ rows[200]).max() < 0.7


def test_draws_lie_where_the_pictures_lie_and_are_none_of_them():
    rows, _ = clustered(400)
    prior = fit_prior(rows, 4)
    drawn, labels = prior.instances(0, np.arange(2000))
    assert labels is None
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(drawn.mean(0), rows.mean(0), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(rows.T), atol=0.03)
    assert (drawn @ rows.T).max() < 0.9999


def test_labels_are_counted_for_each_centre():
    rows, group = clustered(80)
    prior = fit_prior(rows, 4, labels=group, classes=5)
    assert prior.labels is not None
    assert sorted(map(tuple, prior.labels.tolist())) == sorted(map(tuple, (20 * np.eye(4, 5)).tolist()))


def test_a_prior_has_no_more_axes_than_it_could_have_groups():
    rows, _ = clustered(30)
    assert fit_prior(rows, 2).axes.shape == (30 // LEAST, 16)
    assert fit_prior(rows, 2, axes=3).axes.shape == (3, 16)


def test_the_same_pictures_give_the_same_prior():
    rows, _ = clustered(100)
    one, other = fit_prior(rows, 8), fit_prior(rows, 8)
    np.testing.assert_array_equal(one.centres, other.centres)
    np.testing.assert_array_equal(one.axes, other.axes)


@pytest.mark.parametrize(
    ("count", "centres", "message"),
    [
        (9, 1, "9 pictures are too few for a prior of groups of 5 or more: it takes at least 10"),
        (20, 5, "takes 25 pictures and there are 20: ask for 4 centres or fewer"),
        (20, 0, "a prior of 0 centres: choose 1..65536"),
    ],
)
def test_what_cannot_be_fitted_is_refused(count, centres, message):
    with pytest.raises(DataError, match=message):
        fit_prior(clustered(count)[0], centres)
