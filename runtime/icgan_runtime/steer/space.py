"""What is searched: noise as the contract bounds it, and the mixture of the pictures that are followed.

A point of the search is a row of real numbers of which a standard normal one is a random draw: the first
dim_z become noise by the map of the contract (docs/noise.md), the others, one for each picture where there
are several, its weight. So every point is a latent that a seed could have given, and none is outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import latents
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.errors import RequestError
from icgan_runtime.request import Request
from icgan_runtime.rows import OWN_LABEL, Latents

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SHARPNESS = 2.0  # of the weights: random points have a mixture that is mostly of one or two pictures


@dataclass(frozen=True, eq=False)
class Space:
    """All that a generator can draw of some pictures' embeddings [M, D]."""

    model: Model
    embeddings: F32
    request: Request  # its truncation and label

    @property
    def dim(self) -> int:
        """Numbers of a point."""
        count = len(self.embeddings)
        return self.model.dim_z + (count if count > 1 else 0)

    def noise(self, points: F64) -> F32:
        """Noise [N, dim_z] of points [N, dim]."""
        normal = points[:, : self.model.dim_z]
        # what is farther out than draws are the model has hardly learnt
        lengths = np.linalg.norm(normal, axis=1, keepdims=True)
        normal = normal * np.minimum(1, longest(self.model.dim_z) / np.maximum(lengths, 1e-30))
        truncation = bound(self.model, self.request.truncation)
        if math.isinf(truncation):
            unbounded: F32 = normal.astype(np.float32)
            return unbounded
        tiny = np.finfo(np.float64).tiny
        uniform = np.clip(_normal_cdf(normal), tiny, 1 - 2.0**-53)
        limits = np.full(len(points), truncation, np.float32)
        return latents.gaussians(uniform, limits).astype(np.float32)

    def weights(self, points: F64) -> F32:
        """The weights [N, M] of the pictures, which sum to 1."""
        if len(self.embeddings) == 1:
            return np.ones((len(points), 1), np.float32)
        sharp = SHARPNESS * points[:, self.model.dim_z :]
        grown = np.exp(sharp - sharp.max(axis=1, keepdims=True))
        weights: F32 = (grown / grown.sum(axis=1, keepdims=True)).astype(np.float32)
        return weights

    def latents(self, noise: F32, weights: F32) -> Latents:
        """What the generator takes for noise [N, dim_z] and weights [N, M]."""
        request = self.request
        return mixed(self.model, self.embeddings, noise, weights, request.truncation, request.label)


def longest(dim: int) -> float:
    """The length of normal noise [dim] that a draw exceeds once in forty: two deviations above the mean."""
    return math.sqrt(dim) + math.sqrt(2)


def bound(model: Model, truncation: float) -> float:
    """The truncation of the noise; infinity for models that truncate otherwise."""
    return latents.UNTRUNCATED if model.truncation == "mean-w" else truncation


def mixed(model: Model, embeddings: F32, noise: F32, weights: F32, truncation: float, label: int) -> Latents:
    """What the generator takes: noise [N, dim_z], and the mixture of embeddings [M, D] by weights [N, M].

    Raises RequestError for a model with labels without one: a mixture has no instance to take it from.
    """
    labels = None
    if model.classes:
        if label == OWN_LABEL:
            raise RequestError("label", "must be given: what is looked for has no instance to take it from")
        labels = np.full(len(noise), label, np.int64)
    truncations = np.full(len(noise), truncation, np.float32)
    return Latents(noise, mix(embeddings, weights), labels, truncations)


def mix(embeddings: F32, weights: F32) -> F32:
    """Unit rows [N, D]: sums of embeddings [M, D] by weights [N, M]. One embedding stays as it is."""
    if len(embeddings) == 1:
        return embeddings.repeat(len(weights), axis=0)
    sums = weights.astype(np.float64) @ embeddings.astype(np.float64)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    if norms.min() < 1e-6:
        raise RequestError("pictures", "a mixture of opposite embeddings has no direction")
    mixture: F32 = (sums / norms).astype(np.float32)
    return mixture


def _normal_cdf(x: NDArray[Any]) -> F64:
    """Φ(x), element by element."""
    flat = [latents.normal_cdf(value) for value in x.ravel().tolist()]
    return np.array(flat).reshape(x.shape)
