"""ICC profiles: pixels of a wide-gamut photo, as phones take them, in the sRGB that models are trained on.

Profiles of three primaries and three curves are followed (Display P3, Adobe RGB, ProPhoto and their like;
ICC.1 section 8.3.3): curve, matrix, clip, sRGB's curve. Others (tables, CMYK, grey) are ignored, as are PNG's
gAMA, cHRM and cICP. The reduced picture is converted, so that a photo of any size costs the same. The page
does it in `examples/web/colour.js`, to the last bit: double precision, sums in the order written here.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
MAX_PROFILE_BYTES = 1 << 20
STEPS = 1 << 16
NEAR = 2
"""Levels by which a profile may differ from sRGB, on a grid of colours, and be sRGB by another name."""
_FROM_XYZ = (  # D50, to linear sRGB: IEC 61966-2-1 adapted by Bradford's matrix
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)
_TAGS_AT, _MAX_TAGS, _MAX_POINTS = 128, 100, 1 << 14


def to_srgb(pixels: NDArray[np.uint8], profile: bytes) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] as sRGB; as they are where the profile is sRGB's, damaged or of a kind not followed."""
    transform = _transform(profile) if len(profile) <= MAX_PROFILE_BYTES else None
    return pixels if transform is None else _apply(pixels, *transform)


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[F64, F64] | None:
    """Curves [3, 256] and matrix [3, 3] to linear sRGB; None where pixels are to stay as they are."""
    try:
        tags = _tags(profile)
        curves = np.stack([_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")])
        columns = [_xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    except (struct.error, KeyError, ValueError):
        return None
    rows = [
        [out[0] * column[0] + out[1] * column[1] + out[2] * column[2] for column in columns]
        for out in _FROM_XYZ
    ]
    matrix = np.array(rows)
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    moved = np.abs(_apply(grid, curves, matrix).astype(int) - grid).max()
    return None if moved <= NEAR else (curves, matrix)


def _tags(profile: bytes) -> dict[bytes, bytes]:
    if profile[36:40] != b"acsp" or profile[16:24] != b"RGB XYZ ":
        raise ValueError("not a profile of three primaries")
    (count,) = struct.unpack_from(">I", profile, _TAGS_AT)
    tags = {}
    for number in range(min(count, _MAX_TAGS)):
        name, place, size = struct.unpack_from(">4sII", profile, _TAGS_AT + 4 + 12 * number)
        tags[name] = profile[place : place + size]
    return tags


def _xyz(tag: bytes) -> list[float]:
    return [value / 65536 for value in struct.unpack_from(">3i", tag, 8)]


def _curve(tag: bytes) -> F64:
    """What each of 256 levels is in light, 0 to 1."""
    x = np.arange(256) / 255
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return x
        if count == 1:
            return _power(x, struct.unpack_from(">H", tag, 12)[0] / 256)
        if count > _MAX_POINTS:
            raise ValueError("a curve of too many points")
        points: F64 = np.array(struct.unpack_from(f">{count}H", tag, 12)) / 65535
        place = x * (count - 1)
        low = np.minimum(place.astype(int), count - 2)
        between: F64 = points[low] + (points[low + 1] - points[low]) * (place - low)
        return between
    if tag[:4] != b"para":
        raise ValueError("a curve of another kind")
    kind = struct.unpack_from(">H", tag, 8)[0]
    g, *rest = [value / 65536 for value in struct.unpack_from(f">{(1, 3, 4, 5, 7)[min(kind, 4)]}i", tag, 12)]
    a, b = rest[:2] if rest else (1.0, 0.0)
    c, d, e, f = 0.0, 0.0, 0.0, 0.0
    if kind in (1, 2):
        d = -b / a if a else 0.0
        e = f = rest[2] if kind == 2 else 0.0
    elif kind in (3, 4):
        c, d = rest[2:4]
        e, f = rest[4:6] if kind == 4 else (0.0, 0.0)
    return np.clip(np.where(x >= d, _power(a * x + b, g) + e, c * x + f), 0.0, 1.0)


def _power(base: F64, exponent: float) -> F64:
    with np.errstate(divide="ignore", over="ignore"):  # whatever a profile says; infinity is clipped
        raised: F64 = np.power(np.maximum(base, 0.0), exponent)
    return raised


def _apply(pixels: NDArray[np.uint8], curves: F64, matrix: F64) -> NDArray[np.uint8]:
    r, g, b = (curves[channel][pixels[..., channel]] for channel in range(3))
    out = np.empty_like(pixels)
    for channel, (of_r, of_g, of_b) in enumerate(matrix):
        light = r * of_r + g * of_g + b * of_b
        steps = np.floor(np.clip(light, 0.0, 1.0) * (STEPS - 1) + 0.5).astype(np.int64)
        out[..., channel] = _encoded()[steps]
    return out


@lru_cache(maxsize=1)
def _encoded() -> NDArray[np.uint8]:
    """The level of each step of light, by sRGB's curve."""
    x = np.arange(STEPS) / (STEPS - 1)
    curve = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.power(x, 1 / 2.4) - 0.055)
    return np.floor(curve * 255 + 0.5).astype(np.uint8)
