"""The feature of a picture in which a key in the weights is looked for.

Brightness in a band of spatial frequencies that JPEG and halving leave alone, divided by its own local
strength (edges say less than they weigh); a small network takes off what it can tell to be the picture's own
(benchmarks/key_reader.py trains it, on pictures with random patterns, so that it knows no key); and cosine
coefficients of the part that is seen. icgan_training.fit.mark has the same, differentiable.

The network is three sums of products, 11 thousand weights in key_reader.npz: numpy runs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.bundle.arrays import read_npz
from icgan_runtime.origin.likeness import GRID, LUMA, View, unit

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

LOW, HIGH = 22, 32  # of 64 half periods across the picture
WINDOW = 7  # pixels of the local strength
FLOOR = 0.3  # of its mean, added to it
READER = "key_reader.npz"


class Seen:
    """One picture [H, W, 3] on a generator's grid, mirrored or not, as any part of the original."""

    def __init__(self, picture: U8, grid: int) -> None:
        self._grid = grid
        self._clean = [
            _read(images.resize(np.ascontiguousarray(shown), grid).astype(np.float32) @ LUMA)
            for shown in (picture, picture[:, ::-1])
        ]

    def at(self, mirrored: bool, view: View) -> F32:
        """The unit feature [m] of the part `view`."""
        rows = seen_part(self._grid, view.top, view.removed_y)
        columns = seen_part(self._grid, view.left, view.removed_x)
        feature: F32 = unit((rows @ self._clean[mirrored] @ columns.T)[in_band(self._grid)][None])[0]
        return feature

    def rough(self, direction: F32, sides: Sequence[tuple[float, float]]) -> F32:
        """About the cosines [2, S, S] of all parts: mirrored or not, rows, columns (removed, first) of each.

        All are divided by the length that the whole's feature has, where each has a length of its own.
        """
        grid, inside = self._grid, in_band(self._grid)
        wanted = np.zeros(inside.shape, np.float32)
        wanted[inside] = direction
        parts = np.stack([seen_part(grid, first, removed) for removed, first in sides])  # [S, c, g]
        found = []
        for clean in self._clean:
            length = np.linalg.norm((parts[0] @ clean @ parts[0].T)[inside])
            projected = wanted.T @ (parts @ clean)  # [S, c, g]
            found.append(
                projected.reshape(len(sides), -1) @ parts.reshape(len(sides), -1).T / (length + 1e-6)
            )
        return np.stack(found)


def _read(brightness: F32) -> F32:
    """The band of a grid [g, g] over its local strength, without what is the picture's own."""
    grid = len(brightness)
    cosines, radius = _cosines(grid, 0.0, GRID), _radius(grid)
    weight = ((radius >= LOW - 4) & (radius < HIGH + 2)) * radius
    band: F32 = (cosines.T @ ((cosines @ brightness @ cosines.T) * weight) @ cosines).astype(np.float32)
    strength = np.sqrt(_local_mean(band**2) + 1e-3)
    flat = band / (strength + FLOOR * strength.mean())
    rest = brightness - _local_mean(brightness)
    rest /= np.sqrt((rest**2).mean() + 1)
    weights = _reader()
    x = np.maximum(_convolve(np.stack([flat, rest]), weights, "a"), 0)
    x += np.maximum(_convolve(x, weights, "b"), 0)
    x += np.maximum(_convolve(x, weights, "c", dilation=2), 0)
    clean: F32 = (flat + _convolve(x, weights, "d")[0]).astype(np.float32)
    return clean


def _local_mean(grid: F32) -> F32:
    padded = np.pad(grid, WINDOW // 2, mode="reflect")
    mean: F32 = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW, WINDOW)).mean(axis=(2, 3))
    return mean


def _convolve(x: F32, weights: dict[str, F32], layer: str, dilation: int = 1) -> F32:
    """[C, g, g] -> [K, g, g] with weights [K, C, 3, 3], zeros around."""
    kernel, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    side = x.shape[1]
    padded = np.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation)))
    shifts = [dilation * step for step in range(3)]
    columns = np.stack([padded[:, i : i + side, j : j + side] for i in shifts for j in shifts], axis=1)
    product = kernel.reshape(len(kernel), -1) @ columns.reshape(-1, side * side)
    convolved: F32 = (product + bias[:, None]).reshape(-1, side, side)
    return convolved


@cache
def _reader() -> dict[str, F32]:
    data = (resources.files("icgan_runtime") / "origin" / READER).read_bytes()
    return dict(read_npz(data, READER))


def seen_part(grid: int, first: float, removed: float) -> F32:
    """The cosines of the band, [c, g], that g pixels see from row or column `first` of 64 on."""
    return _cosines(grid, first, GRID - removed)[: HIGH * grid // GRID]


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


@cache
def in_band(grid: int) -> NDArray[np.bool_]:
    """Which of the lowest coefficients [c, c] are in the band."""
    count = HIGH * grid // GRID
    radius = _radius(grid)[:count, :count]
    inside: NDArray[np.bool_] = (radius >= LOW) & (radius < HIGH)
    return inside
