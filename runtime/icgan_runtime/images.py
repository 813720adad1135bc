"""Pictures in, pictures out: safe decoding to RGB bytes, the encoder's input, and files to look at.

Decoding is where strangers' bytes meet C code, so the way in is narrow: six formats, recognised by their
first bytes, sizes compared with a limit before pixels are allocated, the first frame only, one exception out.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# The plugins are named so that Pillow need not load all of its others to find them.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from icgan_runtime import files
from icgan_runtime.errors import BundleError, DecodeError

U8 = NDArray[np.uint8]
Picture: TypeAlias = str | Path | bytes | Image.Image | U8

MAX_PIXELS = 1 << 26  # 67 million, 8192 × 8192
MAX_ENCODED_BYTES = 64 << 20
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_PLUGINS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_EXIF_ORIENTATION = 0x0112
# What follows bounds the work of files whose bytes and pixels say nothing of it. Chunks, segments and blocks
# are read in Python; the largest ordinary files take some 30,000 reads.
MAX_READS = 100_000
# A JPEG goes over all its pixels once for each scan, and a scan may be 16 bytes: a megabyte would take an
# hour. Progressive files have about ten; smaller pictures may have more.
MAX_SCANNED_PIXELS = 16 * MAX_PIXELS
_SCAN, _END = b"\xff\xda", b"\xff\xd9"  # neither occurs within the data of a scan
# Pillow copies all EXIF so far for each segment more of it; one or two are usual.
MAX_EXIF_SEGMENTS = 64
_EXIF_HEAD = b"Exif\0\0"
# Of a tag of TIFF or EXIF: Pillow makes an object of each number, and of each strip several. 8,192 lines in
# strips of one have as many. Bytes and text stay as they are.
MAX_TAG_VALUES = 100_000
_BYTE_KINDS = (1, 2, 7)
# RLE8 and RLE4, which Pillow decodes in Python: 64 MiB of them would keep a core busy for half a minute
_BMP_RUN_LENGTHS = (1, 2)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load(picture: Picture, size: int) -> U8:
    """Any accepted picture as the encoder's input, uint8 [size, size, 3]. Raises DecodeError only."""
    if isinstance(picture, np.ndarray):
        return to_input(_from_array(picture), size)
    if isinstance(picture, Image.Image):
        return to_input(_guarded(picture), size)
    if isinstance(picture, bytes):
        return decode(picture, size)
    data = read(picture)
    try:
        return decode(data, size)
    except DecodeError as error:  # among several pictures, which one?
        raise DecodeError(f"{picture}: {error.problem}") from None


def read(path: str | Path) -> bytes:
    """The bytes of a picture file, at most MAX_ENCODED_BYTES. Raises DecodeError."""
    try:
        return files.read_bounded(Path(path), MAX_ENCODED_BYTES, str(path))
    except (BundleError, ValueError) as error:  # ValueError: a NUL in the name
        raise DecodeError(str(error)) from None


def decode(data: bytes, size: int) -> U8:
    """An encoded picture as the encoder's input, uint8 [size, size, 3]. Raises DecodeError only.

    Upright by its EXIF orientation, first frame, transparency on white, 16-bit grey by its high byte.
    """
    if len(data) > MAX_ENCODED_BYTES:
        raise DecodeError(f"{len(data)} bytes, at most {MAX_ENCODED_BYTES} are accepted")
    kind = sniff(data)
    if kind is None:
        raise DecodeError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture")
    return to_input(_guarded(data, kind), size)


def sniff(data: bytes) -> str | None:
    """The format, of FORMATS, whose signature `data` begins with."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    return None


def to_input(picture: Image.Image, size: int) -> U8:
    """Centre-crop an RGB picture to its short side and resize it, as the prepared data set was."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return np.array(square.resize((size, size), Image.Resampling.BILINEAR))


def grid(images: U8, columns: int | None = None, gap: int = 2) -> U8:
    """Pictures [n, R, R, 3] side by side on white, as square as `columns` allows by default."""
    count, height, width, _ = images.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        y, x = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet


def encode(image: U8, kind: str = "PNG") -> bytes:
    """A picture [H, W, 3] as a PNG, JPEG (quality 95) or lossless WEBP file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, quality=95, lossless=True)
    return stream.getvalue()


def _from_array(array: U8) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DecodeError(f"array is {array.dtype}{list(array.shape)}, expected uint8[H, W, 3], RGB")
    _check_size(array.shape[1], array.shape[0])
    return Image.fromarray(np.ascontiguousarray(array))


def _guarded(picture: Image.Image | bytes, kind: str = "") -> Image.Image:
    """Decode and convert to RGB, turning whatever the decoder raises into DecodeError."""
    try:
        opened = picture if isinstance(picture, Image.Image) else _open(picture, kind)
        _check_size(*opened.size)
        if kind == "BMP" and opened.info.get("compression") in _BMP_RUN_LENGTHS:
            raise DecodeError("a BMP in run-length encoding; save it as PNG")
        return _to_rgb(_upright(opened))
    except DecodeError:
        raise
    # Malformed files surface in Pillow as OSError, SyntaxError, ValueError, KeyError, IndexError, zlib.error,
    # struct.error, OverflowError, MemoryError and more: a list would never be complete.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DecodeError(f"cannot be decoded ({reason})") from None


class _Pieces(io.BytesIO):
    """Bytes for a decoder that may not ask for them in too many pieces."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise DecodeError("made of too many tiny pieces; save it again")
        return super().read(size)


def _open(data: bytes, kind: str) -> Image.Image:
    """The picture with its header read, unless it would keep the decoder busy for long."""
    # The class itself, not Image.open: that would consult other formats and its table of plugins.
    plugin, pieces = _PLUGINS[kind], _Pieces(data)
    if kind == "TIFF":
        _check_tags(data)
    if kind != "JPEG":
        return plugin(pieces)
    if data.count(_EXIF_HEAD) > MAX_EXIF_SEGMENTS:
        raise DecodeError("EXIF in too many pieces; save it again")
    opened = plugin(pieces)
    pixels = opened.width * opened.height
    if data.count(_SCAN) * pixels <= MAX_SCANNED_PIXELS:
        return opened
    # Phones put a film behind the picture, in which the mark of a scan stands by chance: without it then.
    end = data.find(_END, pieces.tell())
    alone = data[: end + len(_END)] if end >= 0 else data
    scans = alone.count(_SCAN)
    if scans * pixels > MAX_SCANNED_PIXELS:
        raise DecodeError(f"a JPEG of {scans} scans; save it again")
    return plugin(_Pieces(alone))


def _check_tags(data: bytes, start: int = 0) -> None:
    """Raise DecodeError for a tag of very many numbers in the first directory of a TIFF; EXIF is one, too."""
    order = ">" if data[start : start + 1] == b"M" else "<"
    try:
        (place,) = struct.unpack_from(f"{order}I", data, start + 4)
        (count,) = struct.unpack_from(f"{order}H", data, start + place)
        for entry in range(count):
            _, kind, values = struct.unpack_from(f"{order}HHI", data, start + place + 2 + 12 * entry)
            if values > MAX_TAG_VALUES and kind not in _BYTE_KINDS:
                raise DecodeError(f"a tag of {values} numbers; save it again")
    except struct.error:  # it ends too early, which Pillow says better
        return


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DecodeError(f"{width} × {height} pixels, at most {MAX_PIXELS} are accepted")


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()  # first: a TIFF turns itself while loading, and a PNG may carry its EXIF after its pixels
    try:
        exif = picture.info.get("exif", b"")
        _check_tags(exif, sum(len(_EXIF_HEAD) for place in (0, 6) if exif.startswith(_EXIF_HEAD, place)))
        orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF around sound pixels: show the pixels
        orientation = 1
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise DecodeError(f"32-bit samples (mode {picture.mode}); save the picture with 8 or 16 bits")
    if picture.mode in _WITH_ALPHA or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")
