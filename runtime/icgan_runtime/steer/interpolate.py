"""A path between two pictures, or two seeds of one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import latents
from icgan_runtime.chain import Chain
from icgan_runtime.errors import RequestError
from icgan_runtime.request import Request
from icgan_runtime.steer.space import bound, mixed
from icgan_runtime.steer.steered import Steered

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

MAX_FRAMES = 1000


def interpolate(chain: Chain, embeddings: F32, seeds: tuple[int, int], request: Request) -> Steered:
    """`request.n` images on the way from the first of the embeddings [1 or 2, D] and seeds to the second.

    The ends are what those seeds draw of those pictures. Between them noise and embedding go along great
    circles at an even pace, since both lie near a sphere: halfway along a straight line noise would be too
    short to be any seed's.
    """
    if not 2 <= request.n <= MAX_FRAMES:
        raise RequestError("frames", f"{request.n}, expected 2..{MAX_FRAMES}")
    model, along = chain.model, np.linspace(0, 1, request.n)
    limit = bound(model, request.truncation)
    ends = latents.noise(np.array(seeds), request.first, limit, model.dim_z)
    way = np.clip(arc(ends, along) @ ends.astype(np.float64), -2 * limit, 2 * limit)
    noise: F32 = way.astype(np.float32)
    noise[[0, -1]] = ends  # to the last bit
    shares = arc(embeddings, along) if len(embeddings) == 2 else np.ones((request.n, 1))
    weights: F32 = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    drawn = chain.draw_latents(mixed(model, embeddings, noise, weights, request.truncation, request.label))
    return Steered(drawn, None, embeddings, request, noise=noise, weights=weights, source=chain.source)


def arc(ends: F32, along: F64) -> F64:
    """How much of each of two vectors [2, d] the great circle between them has at `along` [N]: [N, 2].

    Ends of different lengths are passed through evenly, as Shoemake's slerp of unit vectors does.
    """
    one, other = ends.astype(np.float64)
    cosine = one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-30)
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-6:  # the same direction, or the opposite one, where no circle is the shortest
        return np.stack([1 - along, along], axis=1)
    shares: F64 = np.sin(np.stack([(1 - along) * angle, along * angle], axis=1)) / np.sin(angle)
    return shares
