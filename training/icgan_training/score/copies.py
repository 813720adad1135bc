"""Whether samples are copies of training pictures: authenticity (Alaa et al., ICML 2022)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icgan_training.data.neighbours import nearest_by_distance
from icgan_training.errors import DataError
from icgan_training.score.metrics import Features, Scores, check_sets

CLOSEST = 32
"""How many of the most suspicious samples are named."""
LEFT_OUT = 10
"""Every so many-th real picture is compared with the others, as if it had been generated."""


@dataclass(frozen=True)
class Nearest:
    """Which real picture is nearest to each of n samples, and how near it is for that place."""

    picture: NDArray[np.int64]  # [n], row of the real pictures
    ratio: NDArray[np.float64]  # [n], distance to it, divided by its own distance to its nearest other

    @property
    def authenticity(self) -> float:
        """Share of the samples that are farther from a real picture than that is from another real one."""
        return float((self.ratio > 1).mean())


@dataclass(frozen=True)
class Pair:
    """A sample and the real picture it may be a copy of."""

    sample: int  # number of the sample, in the order of `draw`
    picture: int  # row of the data set of real pictures
    ratio: float  # as in `Nearest`; 0 for the same features


def nearest_pictures(real: Features, fake: Features) -> Nearest:
    """The nearest real picture of every sample, from features [N, D] and [n, D].

    Raises `DataError` for fewer than two of a kind, and for NaN and infinity.
    """
    check_sets(real, fake)
    picture = nearest_by_distance(fake, real, 1)[1][:, 0]
    rows, places = np.unique(picture, return_inverse=True)
    two = nearest_by_distance(real[rows], real, 2)[1]
    other = np.where(two[:, 0] == rows, two[:, 1], two[:, 0])  # of two equal pictures either comes first
    near, own = _distances(fake, real[picture]), _distances(real[rows], real[other])[places]
    # of real pictures that are there twice only their equal is a copy
    ratio = np.divide(near, own, out=np.where(near > 0, np.inf, 0.0), where=own > 0)
    return Nearest(picture, ratio)


def score_copies(real: Features, fake: Features, order: NDArray[np.int64]) -> tuple[Scores, list[Pair]]:
    """Authenticity of the samples, that of real pictures left out, and the samples that come closest.

    order: row of the data set [at least N] that each of the real features [N, D] is of.
    Raises `DataError` as `nearest_pictures` does, and for too few real pictures to leave some out.
    """
    if len(real) < 2 * LEFT_OUT:
        raise DataError(f"--metrics copies needs {2 * LEFT_OUT} real pictures or more, given {len(real)}")
    left_out = np.arange(len(real)) % LEFT_OUT == 0
    found = nearest_pictures(real, fake)
    scores: Scores = {
        "authenticity": found.authenticity,
        "authenticity_of_real": nearest_pictures(real[~left_out], real[left_out]).authenticity,
    }
    closest = np.argsort(found.ratio, kind="stable")[:CLOSEST]
    closest = closest[np.isfinite(found.ratio[closest])]
    return scores, [
        Pair(int(row), int(order[found.picture[row]]), float(found.ratio[row])) for row in closest
    ]


def _distances(one: Features, other: Features) -> NDArray[np.float64]:
    """Distances [n] of rows [n, D], exact where the search's rounding would make equal rows differ."""
    return np.asarray(np.linalg.norm(one.astype(np.float64) - other, axis=1))
