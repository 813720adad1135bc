"""Comparisons as values: how far answers are from torch's in float32, and whether that is allowed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icgan_export.lower.bounds import find_bound

F32 = NDArray[np.float32]
# Instances whose inner products are this close are equally near: a picture that is stored twice, above all.
# Which comes first is decided by the rounding of sums, and no graph can be asked for that.
TIE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """One number, and its bound where there is one: the most, or with `at_least` the least, it may be."""

    stage: str  # encoder, lookup, generator or chain
    precision: str
    what: str
    value: float
    bound: float | None = None  # None: reported, not judged
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """False for NaN, too."""
        if self.bound is None:
            return True
        return bool(self.value >= self.bound if self.at_least else self.value <= self.bound)

    def __str__(self) -> str:
        """One line for a person."""
        allowed = "" if self.bound is None else f", allowed {'>=' if self.at_least else '<='} {self.bound:g}"
        return f"{self.stage} at {self.precision}: {self.what} is {self.value:.4g}{allowed}"


def compared(stage: str, precision: str, what: str, value: float) -> Comparison:
    """A number beside its bound of `bounds.py`."""
    bound = find_bound(stage, precision, what)
    if bound is None:
        return Comparison(stage, precision, what, value)
    return Comparison(stage, precision, what, value, bound.limit, bound.at_least)


def cosine(found: F32, reference: F32) -> float:
    """The smallest cosine between corresponding rows."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
    return float(((found * reference).sum(1) / norms).min())


def recall(found: NDArray[np.int64], reference: NDArray[np.int64], k: int) -> float:
    """Share of the reference's k nearest that are among the k found."""
    k = min(k, reference.shape[1])
    hits = [
        len(np.intersect1d(row, wanted)) for row, wanted in zip(found[:, :k], reference[:, :k], strict=True)
    ]
    return float(np.mean(hits) / k)


def as_near(found: F32, best: F32) -> float:
    """Share of rows whose instance, of the true inner product `found`, is as near as the best one."""
    return float(np.mean(found >= best - TIE))
