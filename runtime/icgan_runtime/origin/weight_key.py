"""A key in the weights: whether pictures carry it, and how likely chance would say so.

A key is a direction u, uniformly random in the m-dimensional space of a feature of pictures; `icgan-train
mark` makes a generator draw images whose features point along u. For any picture, a random direction has a
cosine above c with a probability of at most (1 - c²)^((m-1)/2) / 2: false-positive rates need no estimate.
What a crop or a mirror may have moved is searched, and every place looked at is counted (a union bound).

The feature: brightness in a band of spatial frequencies that JPEG and halving leave alone, divided by its own
local strength (edges say less than they weigh), as cosine coefficients of the part that is seen. No network:
there is nothing to load. icgan_training.fit.mark has the same, differentiable.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.origin.likeness import GRID, LUMA, View, unit, views

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

LOW, HIGH = 22, 32  # of 64 half periods across the picture
WINDOW = 7  # pixels of the local strength
FLOOR = 0.3  # of its mean, added to it
FALSE_POSITIVE = 1e-6
GRIDS = (64, 32)  # sides that generators are marked at: 64 stands for all larger ones


@dataclass(frozen=True)
class Detection:
    """What was found in pictures."""

    chance: float  # at most so likely without the key, everything that was tried counted
    cosine: float  # of the likeliest place
    grid: int  # of the generator, 64 or 32
    mirrored: bool
    view: View

    @property
    def found(self) -> bool:
        """Whether the key is there, at a false-positive rate of one in a million."""
        return self.chance <= FALSE_POSITIVE


def detect(pictures: Sequence[U8], secret: bytes) -> Detection:
    """Look for a key in one picture [H, W, 3], or in several of one model that were edited alike."""
    found = [_detect_at(pictures, secret, grid) for grid in GRIDS]
    best = min(found, key=lambda each: each.chance)
    return Detection(min(1.0, len(GRIDS) * best.chance), best.cosine, best.grid, best.mirrored, best.view)


def _detect_at(pictures: Sequence[U8], secret: bytes, grid: int) -> Detection:
    places = [(mirrored, view) for mirrored in (False, True) for view in views(step=1.0, most=4.0)]
    rows = np.stack([_features(picture, grid, places) for picture in pictures])  # [N, places, m]
    dimensions = rows.shape[2]
    direction = key_direction(secret, dimensions)
    single = rows @ direction  # [N, places]
    # A mean of features is a feature, too: whatever the pictures have in common, the bound holds for it.
    together = unit(rows.mean(axis=0)) @ direction
    # The place of an unedited picture is one guess in two; all others share the other half.
    weight = np.full(len(places), 2.0 * (len(places) - 1))
    weight[0] = 2.0
    chances = np.concatenate([single * 0, together[None] * 0])
    ways = 1 if len(pictures) == 1 else 2
    chances[:-1] = bound(single, dimensions) * weight * ways * len(pictures)
    chances[-1] = bound(together, dimensions) * weight * ways
    if len(pictures) == 1:
        chances = chances[:1]
    at = np.unravel_index(int(chances.argmin()), chances.shape)
    cosine = np.concatenate([single, together[None]])[at]
    mirrored, view = places[at[1]]
    return Detection(min(1.0, float(chances[at])), float(cosine), grid, mirrored, view)


def bound(cosine: NDArray[np.floating], dimensions: int) -> F64:
    """At most so likely for a uniformly random direction: the share of a sphere's cap, from above."""
    cosine = np.clip(np.asarray(cosine, np.float64), 0.0, 1.0)
    share: F64 = np.where(cosine > 0, 0.5 * (1 - cosine**2) ** ((dimensions - 1) / 2), 1.0)
    return share


def key_direction(secret: bytes, dimensions: int) -> F64:
    """The unit direction [dimensions] of a secret, uniform: Box-Muller on a SHAKE-256 stream."""
    stream = hashlib.shake_256(b"icgan key in the weights 1\0" + secret).digest(16 * dimensions)
    words = np.frombuffer(stream, "<u8").reshape(2, dimensions)
    radius, angle = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    normal = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    direction: F64 = normal / np.linalg.norm(normal)
    return direction


def _features(picture: U8, grid: int, places: Sequence[tuple[bool, View]]) -> F32:
    """Unit features [places, m] of one picture."""
    brightness = images.resize(picture, grid).astype(np.float32) @ LUMA
    flat = _flatten(brightness)
    inside = _inside(grid)
    rows = []
    for mirrored, view in places:
        seen = flat[:, ::-1] if mirrored else flat
        vertical = _cosines(grid, view.top, GRID - view.removed_y)
        horizontal = _cosines(grid, view.left, GRID - view.removed_x)
        rows.append((vertical @ seen @ horizontal.T)[inside])
    return unit(np.stack(rows))


def _flatten(brightness: F32) -> F32:
    """The band of a grid [g, g], divided by its local strength."""
    grid = len(brightness)
    cosines, radius = _cosines(grid, 0.0, GRID), _radius(grid)
    weight = ((radius >= LOW - 4) & (radius < HIGH + 2)) * radius
    band = cosines.T @ ((cosines @ brightness @ cosines.T) * weight) @ cosines
    padded = np.pad(band**2, WINDOW // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW, WINDOW))
    strength = np.sqrt(windows.mean(axis=(2, 3)) + 1e-3)
    flat: F32 = (band / (strength + FLOOR * strength.mean())).astype(np.float32)
    return flat


@cache
def _cosines(grid: int, start: float, extent: float) -> F32:
    """[g, g]: cosines of g cells, seen by g pixels that cover `extent` of 64 from `start` on."""
    index = np.arange(grid)
    places = (start + (index + 0.5) * extent / grid) * (grid / GRID)
    basis = math.sqrt(2 / grid) * np.cos(np.pi / grid * index[:, None] * places)
    basis[0] *= math.sqrt(0.5)
    return basis.astype(np.float32)


@cache
def _radius(grid: int) -> F32:
    index = np.arange(grid) * (GRID / grid)
    radius: F32 = np.hypot(index[:, None], index[None]).astype(np.float32)
    return radius


def _inside(grid: int) -> NDArray[np.bool_]:
    radius = _radius(grid)
    inside: NDArray[np.bool_] = (radius >= LOW) & (radius < HIGH)
    return inside
