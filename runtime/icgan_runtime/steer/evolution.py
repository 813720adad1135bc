"""CMA-ES, from the library `cmaes`, which no other file imports.

The separable form (Ros and Hansen 2008) learns a scale for each number and no correlations: with a hundred
numbers and some thousand pictures there is no time to learn more. It draws its first points from a standard
normal distribution, as seeds do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cmaes
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Found:
    """The best point [dim], its score, and the best score after each iteration."""

    point: F64
    score: float
    history: tuple[float, ...]


def search(
    score: Callable[[F64], F64],
    start: F64,
    step: float,
    iterations: int,
    population: int,
    seed: int,
    progress: Callable[[int, float], None],
) -> Found:
    """The point of the highest `score` (points [N, dim] -> [N]) that a search from `start` [dim] meets.

    `seed` has 32 bits; the same one gives the same search.
    """
    strategy = cmaes.SepCMA(mean=start, sigma=step, seed=seed, population_size=population)
    best, best_point, history = -np.inf, start, []
    for iteration in range(iterations):
        points = np.stack([strategy.ask() for _ in range(population)])
        scores = score(points)
        strategy.tell([(point, -value) for point, value in zip(points, scores.tolist(), strict=True)])
        row = int(scores.argmax())
        if scores[row] > best:
            best, best_point = float(scores[row]), points[row]
        history.append(best)
        progress(iteration + 1, best)
    return Found(best_point, best, tuple(history))
