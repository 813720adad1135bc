"""How alike pictures are, without a network: what is left of their difference at several scales."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

SCALES = 4  # each of half the side of the one before


def likeness(picture: U8, others: U8) -> F64:
    """0 for each of `others` [N, R, R, 3] that is `picture` [R, R, 3], less for what is less alike.

    The mean absolute difference of the bands of a Laplacian pyramid, grey levels over 255; the coarser count
    more, as what is seen first.
    """
    difference = (others.astype(np.float32) - picture) / 255
    total = np.zeros(len(others))
    for scale in range(SCALES):
        height, width = difference.shape[1] // 2 * 2, difference.shape[2] // 2 * 2
        if min(height, width) < 4:
            break
        whole = difference[:, :height, :width]
        halves = whole.reshape(len(whole), height // 2, 2, width // 2, 2, 3).mean(axis=(2, 4))
        band = whole - halves.repeat(2, axis=1).repeat(2, axis=2)
        total += 2.0**scale * np.abs(band).mean(axis=(1, 2, 3))
        difference = halves
    left: F64 = total + 2.0**SCALES * np.abs(difference).mean(axis=(1, 2, 3))
    return -left
