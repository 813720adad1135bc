"""Comparisons as values: how far answers are from torch's in float32, and whether that is allowed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
# Instances whose inner products are this close are equally near: a picture that is stored twice, above all.
# Which comes first is decided by the rounding of sums, and no graph can be asked for that.
TIE = 1e-5


@dataclass(frozen=True)
class Check:
    """One number against its bound. `at_least` tells on which side of the bound it must lie."""

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


@dataclass(frozen=True)
class Bounds:
    """Contract section 8 for one precision; `image` is the largest difference in [-1, 1]."""

    image: float | None
    psnr: float | None
    cosine: float
    recall: float
    embedding: float | None
    fid: float | None = None  # largest change of the FID


# fp32: 1e-4; one grey level is 2/255, and rounding to bytes can turn 1e-6 into one level.
# bf16, of which the contract says nothing: pictures as FP16, embeddings as INT8, which has as many digits.
BOUNDS = {
    "fp32": Bounds(image=1e-4, psnr=None, cosine=0.999999, recall=1.0, embedding=1e-4),
    "fp16": Bounds(image=None, psnr=40.0, cosine=0.9995, recall=0.99, embedding=None, fid=0.1),
    "bf16": Bounds(image=None, psnr=40.0, cosine=0.99, recall=0.95, embedding=None, fid=0.1),
    "int8": Bounds(image=None, psnr=25.0, cosine=0.99, recall=0.95, embedding=None, fid=1.0),
}


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
