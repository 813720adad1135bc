"""Any picture file -> the square uint8 RGB array a model of resolution R works on.

The rule, in this order: turn as EXIF says, composite alpha on white, make it RGB, crop the centre square of
the short side, resize with Pillow's bilinear filter. The published protocol, plus what real files need; the
runtime does the same to the pictures it is given (`icgan_runtime.images`), to the last bit.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from icgan_training.errors import DataError

WHITE = (255, 255, 255, 255)


def read_picture(path: Path, resolution: int) -> NDArray[np.uint8]:
    """Decode a picture file to [R, R, 3]; raises `DataError` naming a file that is not a whole picture."""
    try:
        with Image.open(path) as image:
            if image.format == "EPS":  # whatever the file is called: Pillow has Ghostscript run it
                raise ValueError("EPS is a program; save what it draws")
            return square(to_rgb(image), resolution)
    # Damaged files surface in Pillow as errors of any kind; one of a million must not end a day's work.
    except Exception as error:
        raise DataError(f"{path}: not a readable picture ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright, opaque, 8-bit RGB; of sixteen-bit grey the high byte."""
    with suppress(Exception):  # damaged EXIF around sound pixels; damaged pixels show below
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow may also open as 32-bit integers
        grey = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image.convert("RGB")


def square(image: Image.Image, resolution: int) -> NDArray[np.uint8]:
    """Centre crop to the short side and bilinear resize: RGB picture -> uint8 [R, R, 3]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # not `resize(box=...)`, whose filter also looks at what lies beside the square
    cropped = image.crop((left, top, left + side, top + side))
    return np.asarray(cropped.resize((resolution, resolution), Image.Resampling.BILINEAR))
