"""What counts as outside a bank."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.search import others
from icgan_runtime.search.novelty import outside_below


def bank(embeddings: np.ndarray) -> Bank:
    unit = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    return Bank("space", unit, np.arange(len(unit)), None, None)


def test_the_instances_of_a_bank_are_inside_it_and_a_stranger_is_not():
    rng = np.random.default_rng(0)
    centre = np.eye(16)[0]
    close = bank(centre + 0.1 * rng.normal(size=(200, 16)))
    limit = outside_below(close)
    alike = close.embeddings @ (close.embeddings[0])
    assert np.sort(alike)[-2] >= limit
    assert (close.embeddings @ np.eye(16, dtype=np.float32)[5]).max() < limit


@pytest.mark.parametrize("block", [7, 100, 1000])
def test_the_limit_is_a_quantile_of_the_distances_between_neighbours(monkeypatch, block):
    monkeypatch.setattr(others, "_BLOCK", block)
    embeddings = bank(np.random.default_rng(1).normal(size=(100, 8)))
    scores = embeddings.embeddings @ embeddings.embeddings.T
    np.fill_diagonal(scores, -1)
    np.testing.assert_allclose(
        outside_below(embeddings, 0.5), np.quantile(scores.max(axis=1), 0.5), rtol=1e-6
    )


def test_two_instances_are_as_near_as_they_are_to_each_other():
    assert outside_below(bank(np.array([[1.0, 0.0], [0.6, 0.8]]))) == np.float32(0.6)


def test_a_large_bank_has_the_same_limit_every_time_it_is_opened():
    large = bank(np.random.default_rng(2).normal(size=(2000, 4)))
    assert outside_below(large) == outside_below(large)


class Counted(np.ndarray):
    """Counts the numbers of it that products read."""

    read = 0

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        Counted.read += sum(item.size for item in inputs if isinstance(item, Counted))
        return getattr(ufunc, method)(*map(np.asarray, inputs), **options)


def test_a_bank_is_read_once_and_not_once_for_each_instance_that_is_looked_at():
    """Of a million instances, mapped from disk, 256 times are too long to wait for a server."""
    large = bank(np.random.default_rng(2).normal(size=(3000, 4)))
    large = dataclasses.replace(large, embeddings=large.embeddings.view(Counted))
    Counted.read = 0
    outside_below(large)
    assert 0 < Counted.read <= 2 * large.embeddings.size


def test_a_bank_of_one_instance_has_no_outside():
    assert outside_below(bank(np.ones((1, 4)))) == -1
