"""Computes noise.json from the text of docs/noise.md alone: plain integers and 40-digit arithmetic.

    python tests/golden/make_noise.py > tests/golden/noise.json

Needs mpmath (torch brings it along).
"""

from __future__ import annotations

import json
import struct
from typing import Any

import mpmath

MASK = (1 << 64) - 1
WIDTH = 10
CASES = [
    (0, 0, 1.0),
    (0, 1, 1.0),
    (1, 0, 1.0),
    (7, 3, 0.7),
    (42, 63, 0.1),
    (123456789, 9999, 1e-3),
    (2**32, 2**32 + 5, 0.5),
    (2**53 + 1, 2, 0.9),
    (2**63 - 1, 0, 1.0),
    (2**63 - 1, 2**63 - 1, None),
    (5, 0, None),
    (2**40 + 12345, 17, None),
]


def philox_block(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (second >> 64) ^ c1 ^ k0, second & MASK, (first >> 64) ^ c3 ^ k1, first & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return [c0, c1, c2, c3]


def case(seed: int, sample: int, truncation: float | None) -> dict[str, Any]:
    key = (seed, sample)
    words = [word for block in range(3) for word in philox_block(key, (1 + block, 0, 0, 0))][:WIDTH]
    u = [min(((word >> 11) + 0.5) * 2.0**-53, 1 - 2.0**-53) for word in words]
    if truncation is not None:
        truncation = struct.unpack("f", struct.pack("f", truncation))[0]
    bound = mpmath.inf if truncation is None else mpmath.mpf(2) * truncation
    low, high = mpmath.ncdf(-bound), mpmath.ncdf(bound)
    z = [float(mpmath.sqrt(2) * mpmath.erfinv(2 * (low + x * (high - low)) - 1)) for x in map(mpmath.mpf, u)]
    draw = philox_block(key, (1, 0, 0, 1))[0]
    return {
        "seed": str(seed),
        "sample": str(sample),
        "truncation": truncation,
        "words": [f"{word:016x}" for word in words],
        "u": u,
        "z": z,
        "draw_word": f"{draw:016x}",
        "draw_rank": {str(k): ((draw >> 11) * k) >> 53 for k in (1, 2, 5, 10, 50, 1000)},
    }


if __name__ == "__main__":
    mpmath.mp.dps = 40
    print(json.dumps([case(*item) for item in CASES], indent=1))
