"""Small sound picture files of every accepted format, as cameras, phones and programs write them."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from icgan_runtime.reader.formats import FORMATS

needs_heif = pytest.mark.skipif(
    importlib.util.find_spec("pillow_heif") is None, reason="pip install 'icgan[heif]'"
)
KINDS = [pytest.param(kind, marks=needs_heif if kind == "HEIC" else ()) for kind in FORMATS]
PHOTO = Path(__file__).parent / "golden" / "photo.jpg"
SAVED: dict[str, tuple[str, dict[str, Any]]] = {  # format -> what Pillow calls it, and how it is saved here
    "WEBP": ("WEBP", {"lossless": True}),
    "AVIF": ("AVIF", {"quality": 90}),
    "HEIC": ("HEIF", {"quality": 90}),
}


def photo(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A real photograph, reduced so that tests are quick."""
    with Image.open(PHOTO) as opened:
        return opened.convert("RGB").resize(size)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """A file of a format of the reader's, or of one that Pillow alone knows."""
    name, usual = SAVED.get(kind, (kind, {}))
    if kind == "HEIC":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    stream = io.BytesIO()
    picture.save(stream, name, **usual | options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0, before: bytes = b"") -> bytes:
    """A PNG put together by hand: rows with their filter byte, `before` are chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    """EXIF with its head, saying one thing."""
    return b"Exif\0\0MM\0*" + struct.pack(">IHHHIHxxI", 8, 1, 0x0112, 3, 1, orientation, 0)


def xmp(orientation: int) -> bytes:
    """XMP that says which way is up."""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        f'tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
    ).encode()


def _text(key: str, value: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, value) if "xmp" in key else info.add_text(key, value, zip=True)
    return info


def _magick(picture: Image.Image, orientation: int) -> bytes:
    said = exif(orientation)
    profile = f"\nexif\n{len(said):8}\n{said.hex()}\n"
    return encoded(picture, "PNG", pnginfo=_text("Raw profile type exif", profile))


def _png_xmp(picture: Image.Image, orientation: int) -> bytes:
    return encoded(picture, "PNG", pnginfo=_text("XML:com.adobe.xmp", xmp(orientation).decode()))


def _tiff(picture: Image.Image, orientation: int, **options: Any) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return encoded(picture, "TIFF", exif=tags, **options)


def _avif_exif_alone(picture: Image.Image, orientation: int) -> bytes:
    """Pillow moves an orientation into the container, so the tag is renamed afterwards."""
    data = encoded(picture, "AVIF", exif=exif(orientation).replace(b"\x01\x12", b"\x01\x28"))
    return data.replace(b"MM\0*\0\0\0\x08\0\x01\x01\x28", b"MM\0*\0\0\0\x08\0\x01\x01\x12")


Write = Callable[[Image.Image, int], bytes]
ORIENTED: dict[str, tuple[str, Write, bool]] = {  # container, source -> ending, writer, whether it counts
    "JPEG, EXIF": ("jpg", lambda p, o: encoded(p, "JPEG", exif=exif(o)), True),
    "JPEG, XMP": ("jpg", lambda p, o: encoded(p, "JPEG", xmp=xmp(o)), False),
    "PNG, EXIF": ("png", lambda p, o: encoded(p, "PNG", exif=exif(o)), True),
    "PNG, XMP": ("png", _png_xmp, False),
    "PNG, ImageMagick's profile": ("png", _magick, False),
    "WebP, EXIF": ("webp", lambda p, o: encoded(p, "WEBP", exif=exif(o)), True),
    "WebP, EXIF without its head": ("webp", lambda p, o: encoded(p, "WEBP", exif=exif(o)[6:]), True),
    "WebP, XMP": ("webp", lambda p, o: encoded(p, "WEBP", xmp=xmp(o)), False),
    "TIFF, its tag": ("tif", _tiff, True),
    "TIFF, LZW, its tag": ("tif", lambda p, o: _tiff(p, o, compression="tiff_lzw"), True),
    "TIFF, XMP": ("tif", lambda p, o: encoded(p, "TIFF", tiffinfo={700: xmp(o)}), False),
    "AVIF, container": ("avif", lambda p, o: encoded(p, "AVIF", exif=exif(o)), True),
    "AVIF, EXIF": ("avif", _avif_exif_alone, False),
    "HEIC, container": ("heic", lambda p, o: encoded(p, "HEIC", exif=exif(o)), True),
    "AVIF, XMP": ("avif", lambda p, o: encoded(p, "AVIF", xmp=xmp(o)), False),
}  # fmt: skip
CONTAINERS = [pytest.param(name, marks=needs_heif if name.startswith("HEIC") else ()) for name in ORIENTED]

# Of colour spaces: the three primaries as XYZ under D50, and the exponent of the curve (None: sRGB's curve).
Space = tuple[tuple[tuple[float, float, float], ...], float | None]
DISPLAY_P3: Space = (
    ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)), None,
)  # fmt: skip
ADOBE_RGB: Space = (
    ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), 2.19921875,
)  # fmt: skip
SRGB: Space = (
    ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)), None,
)  # fmt: skip


def profile(primaries: tuple[tuple[float, float, float], ...], exponent: float | None) -> bytes:
    """An ICC profile, version 4, of three primaries and one curve."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    white = (0.9642, 1.0, 0.8249)
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0)
    curve += fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    if exponent is not None:
        curve = b"curv" + bytes(4) + struct.pack(">IHH", 1, round(exponent * 256), 0)
    said = b"".join(b"\0" + letter.encode() for letter in "made for tests")
    text = (
        b"mluc" + bytes(4) + struct.pack(">IIII", 1, 12, 0x656E5553, len(said)) + struct.pack(">I", 28) + said
    )
    tags = {b"desc": text, b"cprt": text, b"wtpt": b"XYZ " + bytes(4) + fixed(*white)}
    for letter, xyz in zip("rgb", primaries, strict=True):
        tags[f"{letter}XYZ".encode()] = b"XYZ " + bytes(4) + fixed(*xyz)
        tags[f"{letter}TRC".encode()] = curve
    directory, body, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        padded = tag + bytes(-len(tag) % 4)
        directory += name + struct.pack(">II", place + len(body), len(tag))
        body += padded
    size = place + len(body)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(*white)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + directory + body
