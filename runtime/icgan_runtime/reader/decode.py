"""Bytes of a picture file -> an upright, opaque RGB picture, or DecodeError: the way in for everybody.

Decoding is where strangers' bytes meet C code, so the way in is narrow: the formats of `formats`, their own
decoder each, sizes compared with a limit before pixels are made, the first frame only, one exception out.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# The plugins are named so that Pillow need not load all of its others to find them.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from icgan_runtime.errors import DecodeError
from icgan_runtime.reader import orientation
from icgan_runtime.reader.formats import foreign, sniff
from icgan_runtime.reader.heif import open_heic

MAX_PIXELS = 1 << 26  # 67 million, 8192 × 8192
MAX_ENCODED_BYTES = 64 << 20
# What follows bounds the work of files whose bytes and pixels say nothing of it. Chunks, segments and blocks
# are read in Python; the largest ordinary files take some 30,000 reads.
MAX_READS = 100_000
# A JPEG goes over all its pixels once for each scan, and a scan may be 16 bytes: a megabyte would take an
# hour. Progressive files have about ten; smaller pictures may have more.
MAX_SCANNED_PIXELS = 16 * MAX_PIXELS
_SCAN, _END = b"\xff\xda", b"\xff\xd9"  # neither occurs within the data of a scan
# Pillow copies all EXIF so far for each segment more of it; one or two are usual.
MAX_EXIF_SEGMENTS = 64
# Of a tag of TIFF or EXIF: Pillow makes an object of each number, and of each strip several. 8,192 lines in
# strips of one have as many. Bytes and text stay as they are.
MAX_TAG_VALUES = 100_000
_BYTE_KINDS = (1, 2, 7)
# Raw photos (DNG, NEF, ARW) are TIFFs, whose first picture is a thumbnail.
_SUBFILE, _REDUCED, _DNG_VERSION = 254, 1, 50706
_TIFF_HEADS = (b"II*\0", b"MM\0*")
# RLE8 and RLE4, which Pillow decodes in Python: 64 MiB of them would keep a core busy for half a minute
_BMP_RUN_LENGTHS = (1, 2)
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
# Pillow spreads the levels of shallow grey over 0..255, but not the one that is transparent.
_SPREAD = {"L;2": 85, "L;4": 17}


def to_rgb(data: bytes) -> Image.Image:
    """An encoded picture as RGB: upright, first frame, transparency on white, 16 bits by their high byte.

    Its ICC profile, if any, is `info["icc_profile"]`; the pixels are as they are stored.
    Raises DecodeError only: for what is too large, damaged, or in no format of `formats`.
    """
    if len(data) > MAX_ENCODED_BYTES:
        raise DecodeError(f"{len(data)} bytes, at most {MAX_ENCODED_BYTES} are accepted")
    kind = sniff(data)
    if kind is None:
        raise DecodeError(foreign(data))
    return _guarded(lambda: _read(data, kind))


def opened_to_rgb(picture: Image.Image) -> Image.Image:
    """What `to_rgb` gives, of a picture that Pillow has opened. Raises DecodeError only."""

    def read() -> Image.Image:
        check_size(*picture.size)
        picture.load()  # first: a PNG may carry its EXIF after its pixels
        turn = orientation.of_exif(picture.info.get("exif"))
        # the caller's own stays as it is
        return _finished(picture.copy() if picture.mode == "RGB" else picture, turn)

    return _guarded(read)


def check_size(width: int, height: int) -> None:
    """Raise DecodeError for more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise DecodeError(f"{width} × {height} pixels, at most {MAX_PIXELS} are accepted")


def _guarded(read: Callable[[], Image.Image]) -> Image.Image:
    """Turn whatever a decoder raises into DecodeError."""
    try:
        return read()
    except DecodeError:
        raise
    # Malformed files surface in Pillow as OSError, SyntaxError, ValueError, KeyError, IndexError, zlib.error,
    # struct.error, OverflowError, MemoryError and more: a list would never be complete.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DecodeError(f"cannot be decoded ({reason})") from None


def _read(data: bytes, kind: str) -> Image.Image:
    opened = _OPEN[kind](data)
    check_size(*opened.size)
    samples = opened.tile[0][3] if isinstance(opened, PngImagePlugin.PngImageFile) else None
    opened.load()
    exif = data if kind == "TIFF" else opened.info.get("exif")  # perhaps behind the pixels
    turn = orientation.of_exif(exif)
    if "transparency" in opened.info and isinstance(samples, str):
        if samples in _SPREAD:
            opened.info["transparency"] *= _SPREAD[samples]
        if samples == "RGB;16B":
            opened = _without_key_colour(opened, data)
    return _finished(opened, turn)


# ---- opening, with the work of it bounded ----------------------------------------------------------------


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


class _Tiff(TiffImagePlugin.TiffImageFile):
    """As it is stored: Pillow turns a TIFF while it loads, by XMP too."""

    def load_end(self) -> None:
        self._size = self.im.size


def _open_jpeg(data: bytes) -> Image.Image:
    if data.count(orientation.EXIF_HEAD) > MAX_EXIF_SEGMENTS:
        raise DecodeError("EXIF in too many pieces; save it again")
    pieces = _Pieces(data)
    opened = JpegImagePlugin.JpegImageFile(pieces)
    pixels = opened.width * opened.height
    if data.count(_SCAN) * pixels <= MAX_SCANNED_PIXELS:
        return opened
    # Phones put a film behind the picture, in which the mark of a scan stands by chance: without it then.
    end = data.find(_END, pieces.tell())
    alone = data[: end + len(_END)] if end >= 0 else data
    scans = alone.count(_SCAN)
    if scans * pixels > MAX_SCANNED_PIXELS:
        raise DecodeError(f"a JPEG of {scans} scans; save it again")
    return JpegImagePlugin.JpegImageFile(_Pieces(alone))


def _open_bmp(data: bytes) -> Image.Image:
    opened = BmpImagePlugin.BmpImageFile(_Pieces(data))
    if opened.info.get("compression") in _BMP_RUN_LENGTHS:
        raise DecodeError("a BMP in run-length encoding; save it as PNG")
    return opened


def _open_tiff(data: bytes) -> Image.Image:
    _check_tags(data)
    opened = _Tiff(_Pieces(data))
    if opened.tag_v2.get(_SUBFILE, 0) == _REDUCED or _DNG_VERSION in opened.tag_v2:
        raise DecodeError("a raw camera file, which is not read; save it as PNG or JPEG")
    return opened


def _open_ppm(data: bytes) -> Image.Image:
    opened = PpmImagePlugin.PpmImageFile(_Pieces(data))
    if opened.tile[0][0] != "raw":  # other depths are decoded in Python, too
        raise DecodeError("a PPM of other than 256 levels; save it as PNG")
    return opened


def _open_avif(data: bytes) -> Image.Image:
    _check_boxed_exif(data)
    try:
        from PIL.AvifImagePlugin import SUPPORTED, AvifImageFile
    except ImportError:
        SUPPORTED = False
    if not SUPPORTED:
        raise DecodeError("AVIF needs Pillow 11.3 or newer: pip install 'icgan[heif]', or save it as PNG")
    return AvifImageFile(_Pieces(data))


def _open_heic(data: bytes) -> Image.Image:
    _check_boxed_exif(data)
    return open_heic(_Pieces(data))


# The classes themselves, not Image.open: that would consult other formats and its table of plugins.
_OPEN: dict[str, Callable[[bytes], Image.Image]] = {
    "JPEG": _open_jpeg,
    "PNG": lambda data: PngImagePlugin.PngImageFile(_Pieces(data)),
    "WEBP": lambda data: WebPImagePlugin.WebPImageFile(_Pieces(data)),
    "GIF": lambda data: GifImagePlugin.GifImageFile(_Pieces(data)),
    "BMP": _open_bmp,
    "TIFF": _open_tiff,
    "PPM": _open_ppm,
    "AVIF": _open_avif,
    "HEIC": _open_heic,
}


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


def _check_boxed_exif(data: bytes) -> None:
    """`_check_tags` of the EXIF somewhere in an AVIF or HEIC, which is read while these are opened."""
    found = 0
    for head in _TIFF_HEADS:
        at = data.find(head)
        while at >= 0:
            found += 1
            if found > MAX_EXIF_SEGMENTS:
                raise DecodeError("EXIF in too many pieces; save it again")
            _check_tags(data, at)
            at = data.find(head, at + 1)


# ---- pixels ----------------------------------------------------------------------------------------------


def _finished(picture: Image.Image, turn: int) -> Image.Image:
    """Upright and opaque; only the colour profile comes along, which `images.to_input` follows."""
    rgb = _opaque(orientation.turned(picture, turn))
    profile = picture.info.get("icc_profile")
    rgb.info = {} if profile is None else {"icc_profile": profile}
    return rgb


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        levels = np.asarray(picture)
        grey = (levels >> 8).astype(np.uint8)
        grey[levels == picture.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if picture.mode in ("I", "F"):
        raise DecodeError(f"32-bit samples (mode {picture.mode}); save the picture with 8 or 16 bits")
    if picture.mode in _WITH_ALPHA or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    # Pillow would copy one that is RGB already: a third of what a large photo costs to prepare
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _without_key_colour(high: Image.Image, data: bytes) -> Image.Image:
    """A 16-bit PNG whose pixels of one colour are transparent: Pillow keeps eight bits and loses which."""
    low = PngImagePlugin.PngImageFile(_Pieces(data))
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # the other byte of each sample
    samples: NDArray[np.int64] = np.asarray(high).astype(np.int64) << 8 | np.asarray(low)
    pixels = np.array(high)
    pixels[(samples == high.info["transparency"]).all(axis=2)] = 255
    shown = Image.fromarray(pixels)
    shown.info = {key: value for key, value in high.info.items() if key != "transparency"}
    return shown
