"""Images out: sheets to look at, and the one place through which every picture file is written."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from icgan_runtime import files, images
from icgan_runtime.errors import RequestError
from icgan_runtime.images import U8
from icgan_runtime.marks.claim import SINGLE, Sheet
from icgan_runtime.marks.mark import Mark

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_GAP = 2  # pixels between images
_MARGIN = 6  # pixels between an instance and its samples


def grid(pictures: U8, columns: int | None = None, gap: int = _GAP) -> U8:
    """Pictures [n, R, R, 3] side by side on white, as square as can be, or in rows of `columns`."""
    if columns is not None and columns < 1:
        raise RequestError("columns", f"{columns}, expected at least 1")
    count, height, width, _ = pictures.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        y, x = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = picture
    return sheet


def beside(instance: U8, samples: U8, columns: int) -> U8:
    """The instance [R, R, 3] on the left, its samples [n, R, R, 3] beside it in rows of `columns`."""
    sheet = grid(samples, columns)
    left = np.full((sheet.shape[0], instance.shape[1] + _MARGIN, 3), 255, np.uint8)
    left[: instance.shape[0], : instance.shape[1]] = instance
    return np.concatenate([left, sheet], axis=1)


def file_format(path: Path, field: str) -> str:
    """The format that a file's name asks for. RequestError of `field` for a folder or another ending."""
    files.refuse_folder(path, field)
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise RequestError(field, f"{path}, expected a name ending in {', '.join(FORMATS)}") from None


def layout(count: int, columns: int | None = None, left: int = 0, strips: int = 1, caption: int = 0) -> Sheet:
    """Where the images of a sheet lie, as its claim says it; `left`: width of the picture beside them."""
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    return Sheet(columns, _GAP, left + _MARGIN if left else 0, strips, caption)


def names_folder(path: str | Path) -> bool:
    """Whether a name is that of a folder: one that is there, or ends in a slash, or has no suffix."""
    return not Path(path).suffix or Path(path).is_dir() or str(path).endswith(("/", os.sep))


def write_pictures(
    path: str | Path, pictures: U8, numbers: Sequence[int], marked: Callable[[range, Sheet], Mark | None]
) -> list[Path]:
    """Pictures [n, R, R, 3] as the one file or the folder that `path` names; returns the files written.

    A name ending in .png, .jpg, .jpeg or .webp is one file: the picture itself, or the sheet of several. Any
    other is a folder, made if need be, of a PNG file per picture, named by its number: 00000.png. `marked`
    gives the mark of a file, from which pictures are in it, and how they lie. Raises RequestError.
    """
    target = Path(path)
    if not names_folder(path):
        mark = marked(range(len(pictures)), layout(len(pictures)))
        write_picture(target, grid(pictures), "path", mark)
        return [target]
    paths = [target / f"{number:05}.png" for number in numbers]
    for j, (file, picture) in enumerate(zip(paths, pictures, strict=True)):
        write_picture(file, picture, "path", marked(range(j, j + 1), SINGLE))
    return paths


def write_animation(path: Path, frames: U8, frame_ms: int, field: str, mark: Mark | None = None) -> None:
    """Pictures [n, R, R, 3] as an animated WebP file, whole or not at all. RequestError of `field`."""
    if file_format(path, field) != "WEBP":
        raise RequestError(field, f"{path}, expected a name ending in .webp: other formats hold no film")
    if not 1 <= frame_ms <= 60_000:
        raise RequestError("frame_ms", f"{frame_ms}, expected 1..60000 milliseconds")
    data = images.encode_frames(frames, frame_ms) if mark is None else mark.encode_frames(frames, frame_ms)
    files.write_whole(path, data, field)


def write_picture(path: Path, pixels: U8, field: str, mark: Mark | None = None) -> bytes:
    """Pixels [H, W, 3] as the PNG, JPEG or WebP file that the name asks for, whole or not at all.

    Generated ones carry a `mark` of their origin. Returns the bytes of the file.

    RequestError of `field` for another name, for a sheet larger than the format can hold (WebP and JPEG end
    at 16,383 and 65,500 pixels a side), and where nothing can be written.
    """
    kind = file_format(path, field)
    try:
        data = images.encode(pixels, kind) if mark is None else mark.encode(pixels, kind)
    except RequestError:  # of a key that cannot sign
        raise
    except (ValueError, OSError):
        height, width, _ = pixels.shape
        raise RequestError(field, f"{width} × {height} pixels are too many for a {kind}; use .png") from None
    files.write_whole(path, data, field)
    return data
