"""Instances that are drawn instead of stored: a mixture of normal distributions around group means.

Every picture of a data set belongs to a group, of which the mean is kept. A draw chooses a group, as often
as it has pictures, and one of its labels, and goes from its mean some way along axes that all groups share.
`docs/format.md` says it for other languages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icgan_runtime import latents
from icgan_runtime.errors import BundleError

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

MAX_CENTRES = 1 << 16
MAX_AXES = 4096
FOLDER = "prior"


@dataclass(frozen=True, eq=False)
class Prior:
    """K centres of embeddings of D numbers, and A axes that draws leave them along."""

    centres: F32  # [K, D], means of unit rows, which are shorter than 1
    axes: F32  # [A, D], orthonormal
    scales: F32  # [K, A], standard deviations along the axes
    counts: I64  # [K], pictures of each group
    labels: I64 | None = None  # [K, classes], how many of them have each label; None for a model without

    def __post_init__(self) -> None:
        """BundleError for numbers that no draw could use."""
        for name in ("centres", "axes", "scales"):
            if not np.isfinite(getattr(self, name)).all():
                raise BundleError(f"{FOLDER}/{name}.npy", "holds a number that is not finite")
        # draws count in doubles, which are exact so far
        if self.counts.min() < 1 or float(self.counts.astype(np.float64).sum()) >= 2.0**52:
            raise BundleError(f"{FOLDER}/counts.npy", "a group without pictures, or more than there can be")
        if self.labels is not None:
            rows = self.labels.astype(np.float64).sum(axis=1)
            if self.labels.min() < 0 or (rows != self.counts).any():
                raise BundleError(
                    f"{FOLDER}/labels.npy", "does not have one label for each picture of a group"
                )

    def __len__(self) -> int:
        return len(self.centres)

    def __repr__(self) -> str:
        return f"Prior({len(self)} centres of {self.least} pictures or more, {len(self.axes)} axes)"

    @property
    def least(self) -> int:
        """The fewest pictures that a centre is the mean of."""
        return int(self.counts.min())

    def instances(self, seeds: ArrayLike, samples: ArrayLike) -> tuple[F32, I64 | None]:
        """Embeddings [N, D], unit rows, of samples [N] of seeds [N], and the label [N] of each, if any.

        Rows are independent: an instance does not depend on the batch it is drawn in.
        """
        uniforms = latents.uniforms(latents.prior_words(seeds, samples, 2 + len(self.axes)))
        ends = np.cumsum(self.counts)
        group = _place(uniforms[:, 0] * float(ends[-1]), ends[None])
        steps = latents.normal_quantile(uniforms[:, 2:]) * self.scales[group]
        # in doubles, so that no runtime's order of summation shows
        rows = self.centres[group] + steps @ self.axes.astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        label = None
        if self.labels is not None:
            label = _place(uniforms[:, 1] * self.counts[group], np.cumsum(self.labels, axis=1)[group])
        return rows.astype(np.float32), label


def _place(values: NDArray[np.float64], ends: I64) -> I64:
    """The first place [N] whose end, of [N or 1, M] that do not fall, is above the value [N]."""
    place: I64 = (values[:, None] >= ends).sum(axis=1)
    return place
