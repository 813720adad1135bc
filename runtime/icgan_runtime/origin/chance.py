"""How likely a likeness is by chance: the tail of a null distribution, continued with care.

The null is the hardest one there is: other pictures of the same instance. Fisher's transform makes cosines
nearly normal; the normal distribution that stands for them is half as wide again as it must be to lie above
every quantile of the sample from the 90th percentile to the maximum. Half as wide again, because millions of
pairs were counted (benchmarks.origin --strangers): without it, four in a million were taken for one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

_NORMAL = NormalDist()
WIDER = 1.5  # than the sample asks for


@dataclass(frozen=True)
class Null:
    """A normal distribution of Fisher's z that covers the upper tail of a sample of `pairs`."""

    mean: float
    deviation: float
    pairs: int

    def probability(self, cosine: float, tried: int) -> float:
        """At most so likely that the best of `tried` strangers is as like as this (union bound)."""
        beyond = (float(fisher(np.array(cosine))) - self.mean) / self.deviation
        return min(1.0, tried * 0.5 * math.erfc(beyond / math.sqrt(2)))


def fit(cosines: F32) -> Null:
    """The null of cosines between strangers [P], at least some hundreds."""
    z = np.sort(fisher(cosines.ravel()))
    mean = float(np.median(z))
    first = int(0.9 * len(z))
    expected = np.array([_NORMAL.inv_cdf((i + 0.5) / len(z)) for i in range(first, len(z))])
    deviation = float(((z[first:] - mean) / expected).max())
    return Null(mean, max(WIDER * deviation, 1e-3), len(z))


def fisher(cosine: NDArray[Any]) -> NDArray[np.float64]:
    """Fisher's z of cosines, finite at 1."""
    z: NDArray[np.float64] = np.arctanh(np.clip(np.asarray(cosine, np.float64), -1 + 1e-9, 1 - 1e-9))
    return z
