"""Where the pictures of a sheet lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.images import resize_sides
from icgan_runtime.marks.claim import Claim

U8 = NDArray[np.uint8]

# How many times fewer pixels than it was written with a sheet may have. Beyond a quarter of the size nothing
# is recognised, and a claim that lies would have thousands of images drawn for a file of few pixels.
MOST_SMALLER = 4 * 4


def cut(picture: U8, claim: Claim, side: int) -> list[U8] | None:
    """The pictures [n, side, side, 3] of each strip of a claimed sheet; None if it cannot have that shape.

    A sheet of another size is brought to the size that it was written at.
    """
    sheet = claim.sheet
    columns = min(sheet.columns, claim.n)
    rows, step = -(-claim.n // columns), side + sheet.gap
    strip = rows * step - sheet.gap
    height = sheet.strips * (strip + sheet.caption + sheet.gap) - sheet.gap
    width = sheet.left + columns * step - sheet.gap
    if height * width > MOST_SMALLER * picture.shape[0] * picture.shape[1]:
        return None
    if picture.shape[:2] != (height, width):
        picture = resize_sides(picture, height, width)
    cells = []
    for number in range(sheet.strips):
        top = number * (strip + sheet.caption + sheet.gap)
        places = [(top + i // columns * step, sheet.left + i % columns * step) for i in range(claim.n)]
        cells.append(np.stack([picture[y : y + side, x : x + side] for y, x in places]))
    return cells
