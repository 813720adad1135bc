"""Which picture files are read, known by their first bytes, and what the others are called.

The table for people is in docs/format.md; the page has its own in `examples/web/container.js`.
"""

from __future__ import annotations

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIC")
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm",
    ".avif", ".heic", ".heif",
})  # fmt: skip
"""How files of FORMATS are called, in small letters; what a file is, its first bytes say."""

_ACCEPTED = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_OTHERS = (
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"8BPS", "a Photoshop"),
    (b"\0\0\1\0", "an ICO"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "an EPS"),
    (b"\xc5\xd0\xd3\xc6", "an EPS"),
    (b"<svg", "an SVG"),
    (b"II+\0", "a BigTIFF"),
    (b"MM\0+", "a BigTIFF"),
    (b"FUJIFILMCCD-RAW", "a raw camera"),
    (b"IIRO", "a raw camera"),
    (b"IIU\0", "a raw camera"),
)  # fmt: skip
_GIT_LFS = b"version https://git-lfs.github.com/spec/"


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
    if data[:2] in (b"P5", b"P6") and data[2:3].isspace():
        return "PPM"
    return _box_brand(data)


def _box_brand(data: bytes) -> str | None:
    """AVIF and HEIC are one container: its first box lists what its pictures are coded in."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    brands = {data[at : at + 4] for at in (8, *range(16, end - 3, 4))}
    if brands & _AVIF:
        return "AVIF"
    return "HEIC" if brands & _HEIC else None


def foreign(data: bytes) -> str:
    """The sentence that refuses bytes which are in none of FORMATS, by their name where that is known."""
    for signature, name in _OTHERS:
        if data.startswith(signature):
            return f"{name} file, which is not read; save it as PNG or JPEG"
    if data.startswith(_GIT_LFS):
        return "a pointer of Git LFS in the picture's place: fetch the files with git lfs pull"
    if data[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page instead of a picture, as a site answers for a link that has expired"
    return f"not a {_ACCEPTED} picture"
