"""How alike two pictures are, whatever was done to one of them: cosines of band features.

A picture becomes the cosine coefficients of its brightness in a band of spatial frequencies, each weighted by
its frequency (natural pictures have amplitudes of about 1/frequency, so that the coefficients count alike),
as a unit vector. JPEG, blur, noise and change of size hardly move such vectors, and contrast or brightness
not at all. A crop does: a `View` says which part of the original the picture may be, and the features are
taken of the original's cosines within that part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

GRID = 64  # pictures of every size are compared at this one
MOST = 7  # columns or rows of it that a crop may remove and still be placed
TURNS, REACH = 4, 2.0  # of placing a crop: times, and cells around the last place
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Band:
    """Spatial frequencies low <= |f| < high, in half periods across the picture."""

    low: int
    high: int

    @property
    def width(self) -> int:
        """How many coefficients the features have."""
        return int(_mask(self).sum())


COARSE = Band(3, 12)  # of the index: small, and forgiving
FINE = Band(3, 20)  # of the proof


@dataclass(frozen=True)
class View:
    """The part of the original that is shown: 64 − removed_x columns from `left` on, and rows likewise."""

    removed_x: float = 0.0  # on the grid of 64
    removed_y: float = 0.0
    left: float = 0.0
    top: float = 0.0

    def box(self, x: float, y: float) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge in pixels, of which a cell of the grid has x and y."""
        right, lower = self.left + GRID - self.removed_x, self.top + GRID - self.removed_y
        return self.left * x, self.top * y, right * x, lower * y

    def crop(self, pictures: U8) -> U8:
        """This part of pictures [N, H, W, 3], enlarged to their size."""
        if self == WHOLE:
            return pictures
        _, height, width, _ = pictures.shape
        box = self.box(width / GRID, height / GRID)
        return np.stack(
            [
                np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC, box))
                for picture in pictures
            ]
        )


WHOLE = View()


@cache
def views(step: float = 1.5, most: float = 6.0) -> tuple[View, ...]:
    """The whole, and crops that remove up to `most` of 64 rows and columns, at every place, whole first."""
    sides = [
        (removed, place)
        for removed in np.arange(0.0, most + step / 2, step)
        for place in np.arange(0.0, removed + step / 2, step)
    ]
    return tuple(View(rx, ry, left, top) for ry, top in sides for rx, left in sides)


def grey(pictures: U8) -> F32:
    """Brightness of pictures [N, H, W, 3] on the grid: float32 [N, 64, 64] in 0..255."""
    if pictures.shape[1:3] != (GRID, GRID):
        resized = [
            Image.fromarray(picture).resize((GRID, GRID), Image.Resampling.BICUBIC) for picture in pictures
        ]
        pictures = np.stack([np.asarray(picture) for picture in resized])
    brightness: F32 = pictures.astype(np.float32) @ LUMA
    return brightness


def features(brightness: F32, band: Band, view: View = WHOLE) -> F32:
    """Unit rows [N, band.width] of grids [N, 64, 64]. A picture without any content gives zeros."""
    rows = _fit(band.high, view.top, GRID - view.removed_y)
    columns = _fit(band.high, view.left, GRID - view.removed_x)
    coefficients = (rows @ brightness @ columns.T) * _radius(band.high)
    return unit(coefficients[:, _mask(band)])


def unit(rows: NDArray[Any]) -> F32:
    """Rows [N, d] over their lengths."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-6), np.float32)


@cache
def _fit(count: int, start: float, extent: float) -> F32:
    """[count, 64]: from 64 pixels that cover `extent` of 64 cells, from `start` on, to the cells' cosines.

    Least squares, a little damped: within a part of the picture the cosines are not orthogonal, and the large
    coefficients of low frequencies would spill into all others.
    """
    places = start + (np.arange(GRID) + 0.5) * extent / GRID
    basis = np.sqrt(2 / GRID) * np.cos(np.pi / GRID * np.arange(count)[:, None] * places)
    basis[0] *= np.sqrt(0.5)
    seen = extent / GRID
    damping = 0.05 * np.eye(count) if seen < 1 else 0.0
    return np.linalg.solve(basis @ basis.T * seen + damping, basis * seen).astype(np.float32)


@cache
def _radius(count: int) -> F32:
    side = np.arange(count)
    return np.hypot(side[:, None], side[None]).astype(np.float32)


def _mask(band: Band) -> NDArray[np.bool_]:
    radius = _radius(band.high)
    inside: NDArray[np.bool_] = (radius >= band.low) & (radius < band.high)
    return inside


def refine(picture: F32, drawing: F32, start: View | None = None) -> View:
    """The crop of a drawing [1, 64, 64] that a picture [1, 64, 64] most likely is, to half a cell.

    Columns and rows take turns; each looks at all crops near the last one, for the likeness has side peaks.
    """
    coarse = features(drawing, COARSE)[0]
    view = start or max(views(), key=lambda each: float(features(picture, COARSE, each)[0] @ coarse))
    fine, whole = features(picture, FINE)[0], Image.fromarray(drawing[0])

    def likeness(each: View) -> float:
        part = whole.resize((GRID, GRID), Image.Resampling.BICUBIC, each.box(1.0, 1.0))
        return float(features(np.asarray(part)[None], FINE)[0] @ fine)

    for _ in range(TURNS):
        before = view
        for removed, place in (("removed_x", "left"), ("removed_y", "top")):
            width, first = getattr(view, removed), getattr(view, place)
            around = [
                replace(view, **{removed: wide, place: at})
                for wide, at in fine_sides()
                if abs(wide - width) <= REACH and abs(at - first) <= REACH
            ]
            view = max(around, key=likeness)
        if view == before:
            break
    return view


@cache
def fine_sides() -> tuple[tuple[float, float], ...]:
    """Columns or rows that a crop may remove, and how many of them before it, in steps of half a cell."""
    return tuple((removed / 2, place / 2) for removed in range(2 * MOST + 1) for place in range(removed + 1))
