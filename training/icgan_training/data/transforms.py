"""Any picture file -> the square uint8 RGB array a model of resolution R works on.

The rule is the runtime's, to the last bit, because it is the runtime's reader (`icgan_runtime.images`): what
that refuses is refused here, by name, and what it turns or shows on white is turned and white here, too.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icgan_runtime import images
from icgan_runtime.errors import DecodeError
from icgan_training.errors import DataError


def read_picture(path: Path, resolution: int, crop: str = images.CENTRE) -> NDArray[np.uint8]:
    """Decode a picture file to [R, R, 3]; raises `DataError` naming a file that is not a whole picture."""
    try:
        return images.load(path, resolution, crop)
    except DecodeError as error:
        raise DataError(one_line(error.problem)) from error


def decode_picture(data: bytes, name: str, resolution: int, crop: str = images.CENTRE) -> NDArray[np.uint8]:
    """Decode the bytes of a picture file to [R, R, 3]; raises `DataError` with `name` for a damaged one."""
    try:
        return images.decode(data, resolution, crop)
    except DecodeError as error:
        raise DataError(one_line(f"{name}: {error.problem}")) from error


def square(pixels: NDArray[np.uint8], resolution: int, crop: str = images.CENTRE) -> NDArray[np.uint8]:
    """Made square by one of CROPS, by a bilinear resize: RGB uint8 [H, W, 3] -> uint8 [R, R, 3]."""
    return images.to_input(Image.fromarray(np.ascontiguousarray(pixels)), resolution, crop)


def one_line(text: object) -> str:
    """What a library says, on one line."""
    return " ".join(str(text).split())
