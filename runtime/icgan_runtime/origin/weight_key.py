"""A key in the weights: whether pictures carry it, and how likely chance would say so.

A key is a direction u, uniformly random in the m-dimensional space of a feature of pictures; `icgan-train
mark` makes a generator draw images whose features point along u. For any picture, real, generated or marked
with another key, the chance that a random direction comes as near is the area of a sphere's cap:
false-positive rates need no estimate. What a crop or a mirror may have moved is searched, and every place
looked at is counted, each with a share of the rate that was fixed beforehand (a union bound).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.origin.key_feature import Seen
from icgan_runtime.origin.likeness import WHOLE, View, unit

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

FALSE_POSITIVE = 1e-6
# rows or columns (removed, first) of crops
SIDES = tuple((float(removed), float(first)) for removed in range(5) for first in range(removed + 1))
EXACT = 12  # places
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
    seen = [Seen(picture, grid) for picture in pictures]
    places, shares = searched()
    dimensions = len(seen[0].at(*places[0]))
    direction = key_direction(secret, dimensions).astype(np.float32)
    rough = np.stack([each.rough(direction, SIDES).ravel() for each in seen])  # [N, places]
    # Each alone and, of more than one, all together: a mean of features is a feature, too. One half of the
    # rate is for all together, the other for each alone.
    groups = [([each], row) for each, row in zip(seen, rough, strict=True)]
    tries = 1 if len(seen) == 1 else 2 * len(seen)
    counts = [tries] * len(seen)
    if len(seen) > 1:
        groups.append((seen, rough.mean(axis=0)))
        counts.append(2)
    found = []
    for (group, about), count in zip(groups, counts, strict=True):
        # the exact cosine where the rough one promises most: looking at fewer places finds nothing by chance
        for index in np.argsort(cap(about, dimensions) / shares)[:EXACT]:
            feature = unit(np.mean([each.at(*places[index]) for each in group], axis=0)[None])[0]
            cosine = float(feature @ direction)
            chance = float(cap(np.array(cosine), dimensions) * count / shares[index])
            found.append(Detection(min(1.0, chance), cosine, grid, *places[index]))
    return min(found, key=lambda each: each.chance)


@cache
def searched() -> tuple[list[tuple[bool, View]], F64]:
    """The places that are looked at, the unedited one first, and what share of the rate each may use."""
    places = [
        (mirrored, View(removed_x, removed_y, left, top))
        for mirrored in (False, True)
        for removed_y, top in SIDES
        for removed_x, left in SIDES
    ]
    # likelier edits have more: half for the whole, an eighth for it mirrored, a quarter for crops that keep
    # the proportions
    kinds = [_kind(mirrored, view) for mirrored, view in places]
    shares = {"whole": 1 / 2, "mirrored": 1 / 8, "proportional": 1 / 4, "other": 1 / 8}
    return places, np.array([shares[kind] / kinds.count(kind) for kind in kinds])


def _kind(mirrored: bool, view: View) -> str:
    if view == WHOLE:
        return "mirrored" if mirrored else "whole"
    return "proportional" if not mirrored and view.removed_x == view.removed_y else "other"


def cap(cosine: NDArray[np.floating], dimensions: int) -> F64:
    """At most so likely is a cosine of this or more for a uniformly random direction.

    The density of a cosine t is C (1 - t²)^((m-3)/2) with C below ((m-1) / 2π)^(1/2). Its integral from
    c > 0 on is at most that of t/c times it, (1 - c²)^((m-1)/2) / (c (m-1)); a half is another bound.
    """
    near: F64 = np.clip(np.asarray(cosine, np.float64), 1e-9, 1.0)
    power = (1 - near**2) ** ((dimensions - 1) / 2)
    share: F64 = power * np.minimum(0.5, 1 / (near * math.sqrt(2 * math.pi * (dimensions - 1))))
    return np.where(near > 1e-9, share, 1.0)


def key_direction(secret: bytes, dimensions: int) -> F64:
    """The unit direction [dimensions] of a secret, uniform: Box-Muller on a SHAKE-256 stream."""
    stream = hashlib.shake_256(b"icgan key in the weights 1\0" + secret).digest(16 * dimensions)
    words = np.frombuffer(stream, "<u8").reshape(2, dimensions)
    radius, angle = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    normal = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    direction: F64 = normal / np.linalg.norm(normal)
    return direction
