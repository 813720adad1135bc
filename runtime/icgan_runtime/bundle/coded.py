"""Embeddings stored in fewer bytes than float32, and what every reader takes them for (docs/format.md).

All that is computed, scores above all, is computed with the decoded rows, so that all runtimes agree on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.arrays import InBlocks
from icgan_runtime.errors import RequestError

F32 = NDArray[np.float32]
Array = NDArray[Any]

CODINGS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int8": np.dtype("|i1"),
}
CODING_HELP = "how the bank stores embeddings: float16 halves, int8 quarters them (default: %(default)s)"
_LARGEST = 127  # of an int8
_BLOCK = 4096  # rows


def check_coding(coding: str) -> str:
    """Raise RequestError, which names the option, for an unknown one."""
    if coding not in CODINGS:
        raise RequestError("embeddings", f"{coding!r}, expected one of {', '.join(CODINGS)}")
    return coding


def encode(rows: Array, coding: str) -> Array:
    """Unit rows [N, D] as they are stored. Of decoded rows: exactly what they were decoded from."""
    stored: Array = np.empty(rows.shape, CODINGS[coding])
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        if coding == "int8":
            part = np.rint(part * (_LARGEST / np.abs(part).max(axis=1, keepdims=True).astype(np.float64)))
        stored[start : start + _BLOCK] = part
    return stored


def decode(stored: Array) -> F32:
    """The rows [N, D] that stored numbers stand for: halves widened, bytes divided by their length."""
    if stored.dtype != np.int8:
        return np.asarray(stored, np.float32)
    rows = np.empty(stored.shape, np.float32)
    for start in range(0, len(stored), _BLOCK):
        wide = stored[start : start + _BLOCK].astype(np.int64)
        lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide).astype(np.float64))  # the sums are exact
        with np.errstate(invalid="ignore", divide="ignore"):  # a row of zeros is no unit row: refused later
            rows[start : start + _BLOCK] = wide / lengths[:, None]
    return rows


class Decoded(InBlocks):
    """A mapped array [N, D] of stored numbers, as an array of float32 that is decoded where it is read."""

    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, stored: Array) -> None:
        self._stored = stored
        self.shape, self.size = stored.shape, stored.size

    def __getitem__(self, key: Any) -> F32:
        found = self._stored[key]
        return decode(found) if found.ndim == 2 else decode(found[None])[0]
