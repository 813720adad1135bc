"""Any accepted picture as the encoder's input, and the way back into a picture file's bytes.

Training prepares its pictures by the same functions, so that a model meets what it has learnt from.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from icgan_runtime import files
from icgan_runtime.errors import BundleError, DecodeError
from icgan_runtime.identity import CENTRE, CROPS, SQUEEZE
from icgan_runtime.reader import decode as reader
from icgan_runtime.reader.colour import to_srgb
from icgan_runtime.reader.decode import MAX_ENCODED_BYTES, MAX_PIXELS
from icgan_runtime.reader.formats import FORMATS, SUFFIXES, sniff

__all__ = [
    "CENTRE", "CROPS", "FORMATS", "MAX_ENCODED_BYTES", "MAX_PIXELS", "SQUEEZE", "SUFFIXES", "U8", "Picture",
    "decode", "encode", "for_encoder", "from_text", "load", "read", "sniff", "to_input",
]  # fmt: skip

U8 = NDArray[np.uint8]
_STANDARD = bytes.maketrans(b"-_", b"+/")
Picture: TypeAlias = str | Path | bytes | Image.Image | U8


class Prepared(Protocol):
    """How pictures become an encoder's input: `preprocessing` of a manifest."""

    @property
    def size(self) -> int: ...

    @property
    def crop(self) -> str: ...


def for_encoder(picture: Picture, preprocessing: Prepared) -> U8:
    """Any accepted picture as a bundle's encoder takes it, uint8 [S, S, 3]. Raises DecodeError only."""
    return load(picture, preprocessing.size, preprocessing.crop)


def load(picture: Picture, size: int, crop: str = CENTRE) -> U8:
    """Any accepted picture as the encoder's input, uint8 [size, size, 3]. Raises DecodeError only.

    crop: one of CROPS.
    """
    if isinstance(picture, np.ndarray):
        return to_input(_from_array(picture), size, crop)
    if isinstance(picture, Image.Image):
        return to_input(reader.opened_to_rgb(picture), size, crop)
    if isinstance(picture, bytes):
        return decode(picture, size, crop)
    data = read(picture)
    try:
        return decode(data, size, crop)
    except DecodeError as error:  # among several pictures, which one?
        raise DecodeError(f"{picture}: {error.problem}") from None


def read(path: str | Path) -> bytes:
    """The bytes of a picture file, at most MAX_ENCODED_BYTES. Raises DecodeError."""
    try:
        return files.read_bounded(Path(path), reader.MAX_ENCODED_BYTES, str(path))
    except (BundleError, ValueError) as error:  # ValueError: a NUL in the name
        raise DecodeError(str(error)) from None


def decode(data: bytes, size: int, crop: str = CENTRE) -> U8:
    """An encoded picture as the encoder's input, uint8 [size, size, 3]. Raises DecodeError only.

    Upright by its EXIF orientation, first frame, transparency on white, 16-bit grey by its high byte, in
    sRGB by its ICC profile.
    """
    return to_input(reader.to_rgb(data), size, crop)


def pixels(data: bytes) -> U8:
    """All pixels of an encoded picture, upright RGB uint8 [H, W, 3]. Raises DecodeError only."""
    return np.array(reader.to_rgb(data))


def from_text(text: bytes) -> bytes | None:
    """The bytes that base64 stands for: standard or URL-safe, with line breaks, unpadded, or a data: URL.

    None for what is no base64 at all.
    """
    head, comma, rest = text.lstrip().partition(b",")
    if comma and head[:5].lower() == b"data:":
        if not head.lower().endswith(b";base64"):
            raise DecodeError("a data: URL that is not base64")
        text = rest
    text = text.translate(_STANDARD, b" \t\r\n").rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None


def to_input(picture: Image.Image, size: int, crop: str = CENTRE) -> U8:
    """The middle of an RGB picture, or all of it, resized to a square that follows its colour profile."""
    square, (width, height) = picture, picture.size
    if crop == CENTRE and width != height:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
    pixels = np.array(square.resize((size, size), Image.Resampling.BILINEAR))
    profile = picture.info.get("icc_profile")
    return to_srgb(pixels, profile) if isinstance(profile, bytes) else pixels


def encode(image: U8, kind: str = "PNG", xmp: bytes | None = None) -> bytes:
    """A picture [H, W, 3] as a PNG, JPEG (quality 95) or lossless WEBP file, with XMP metadata if given."""
    stream = io.BytesIO()
    options: dict[str, Any] = {}
    if xmp is not None and kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp is not None:
        options["xmp"] = xmp
    Image.fromarray(image).save(stream, kind, quality=95, lossless=True, **options)
    return stream.getvalue()


def encode_frames(frames: U8, frame_ms: int, xmp: bytes | None = None) -> bytes:
    """Pictures [n, H, W, 3] as an animated, lossless WEBP file that runs for ever, with XMP if given."""
    stream = io.BytesIO()
    options: dict[str, Any] = {"duration": frame_ms, "loop": 0, "lossless": True}
    options |= {} if xmp is None else {"xmp": xmp}
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(stream, "WEBP", save_all=True, append_images=others, **options)
    return stream.getvalue()


def resize(image: U8, side: int) -> U8:
    """A picture [H, W, 3] at [side, side, 3]."""
    return resize_sides(image, side, side)


def resize_sides(image: U8, height: int, width: int) -> U8:
    """A picture [H, W, 3] at [height, width, 3]; the same pixels where it has that size."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _from_array(array: U8) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DecodeError(f"array is {array.dtype}{list(array.shape)}, expected uint8[H, W, 3], RGB")
    reader.check_size(array.shape[1], array.shape[0])
    return Image.fromarray(np.ascontiguousarray(array))
