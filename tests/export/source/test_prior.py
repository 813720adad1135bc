"""What a prior is fitted to when a bundle is exported, and what stands in for pictures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from icgan_export.errors import ExportError
from icgan_export.source.instances import Instances
from icgan_export.source.prior import make_prior, without_pictures


def instances_of(count: int, labels: Any = None) -> Instances:
    """Two of `count` unit rows around two directions, and all of them to fit a prior to."""
    rng = np.random.default_rng(0)
    rows = np.eye(2, 8)[np.arange(count) % 2] + 0.05 * rng.normal(size=(count, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    chosen = np.arange(2)
    return Instances(
        chosen,
        pictures,
        rows[:2],
        None,
        ("a", "b"),
        pictures,
        "photos",
        "MIT",
        None,
        False,
        None,
        None,
        rows,
        labels,
    )


def run_of(classes: int) -> Any:
    """A run whose pictures are all grey."""
    drawn = SimpleNamespace(given=[])

    def draw(embeddings, labels):
        drawn.given.append((embeddings, labels))
        return np.full((len(embeddings), 4, 4, 3), 99, np.uint8)

    return cast(Any, SimpleNamespace(model=SimpleNamespace(classes=classes), draw=draw, drawn=drawn))


@pytest.mark.parametrize("labels", [None, np.full(40, 2)], ids=["none", "unknown"])
def test_a_model_of_classes_wants_a_label_for_each_picture(labels):
    with pytest.raises(
        ExportError, match=r"the model takes labels in 0\.\.1 and photos has not one for each"
    ):
        make_prior(run_of(2), instances_of(40, labels), 2)


def test_a_model_of_one_class_needs_no_labels():
    labels = make_prior(run_of(1), instances_of(40), 2).labels
    assert labels is not None
    assert labels.tolist() == [[20], [20]]


def test_means_and_drawn_pictures_stand_in_for_instances():
    run, found = run_of(2), instances_of(40, np.arange(40) % 2)
    prior = make_prior(run, found, 2)
    shown = without_pictures(run, found, prior, queries=6)
    np.testing.assert_allclose(np.linalg.norm(shown.embeddings, axis=1), 1, atol=1e-6)
    assert shown.names is not None
    assert list(shown.names.pick(np.arange(2))) == ["mean of 20 pictures"] * 2
    assert shown.labels is not None
    assert sorted(shown.labels.tolist()) == [0, 1]
    assert (shown.pictures == 99).all()
    assert len(shown.queries) == 6
    assert shown.source == "means of 20 or more pictures each, no picture itself, of photos"
    assert shown.limit == pytest.approx(
        np.quantile((found.all_embeddings @ shown.embeddings.T).max(1), 0.01), abs=1e-6
    )
    (embeddings, labels), *_ = run.drawn.given
    expected = prior.instances(0, np.arange(len(embeddings)))
    np.testing.assert_array_equal(embeddings, expected[0])
    np.testing.assert_array_equal(labels, expected[1])
