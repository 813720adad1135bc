"""Real files of every accepted format in its rarer forms: what abuse starts from."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from tests.picture_files import DISPLAY_P3, profile


def odd_files() -> dict[str, bytes]:
    """Small sound pictures of every accepted format, in its rarer forms."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (24, 31, 3), np.uint8))
    deep = Image.fromarray(rng.integers(0, 1 << 16, (9, 13), np.uint16))
    frames = [colour.rotate(180), colour.convert("L").convert("RGB")]
    turned = Image.Exif()
    turned[0x0112] = 6
    made: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "plain.jpg": (colour, "JPEG", {}),
        "progressive.jpg": (colour, "JPEG", {"progressive": True, "quality": 30}),
        "cmyk.jpg": (colour.convert("CMYK"), "JPEG", {}),
        "grey.jpg": (colour.convert("L"), "JPEG", {}),
        "turned.jpg": (colour, "JPEG", {"exif": turned.tobytes()}),
        "plain.png": (colour, "PNG", {}),
        "alpha.png": (colour.convert("RGBA"), "PNG", {}),
        "palette.png": (colour.quantize(7), "PNG", {"transparency": 3}),
        "deep.png": (deep, "PNG", {}),
        "bilevel.png": (colour.convert("1"), "PNG", {}),
        "animated.png": (colour, "PNG", {"save_all": True, "append_images": frames}),
        "lossy.webp": (colour, "WEBP", {"quality": 20}),
        "lossless.webp": (colour.convert("RGBA"), "WEBP", {"lossless": True}),
        "animated.webp": (colour, "WEBP", {"save_all": True, "append_images": frames}),
        "plain.gif": (colour.quantize(16), "GIF", {}),
        "animated.gif": (colour, "GIF", {"save_all": True, "append_images": frames, "interlace": 1}),
        "plain.bmp": (colour, "BMP", {}),
        "palette.bmp": (colour.quantize(16), "BMP", {}),
        "plain.tiff": (colour, "TIFF", {}),
        "lzw.tiff": (colour, "TIFF", {"compression": "tiff_lzw"}),
        "jpeg.tiff": (colour, "TIFF", {"compression": "jpeg"}),
        "pages.tiff": (colour, "TIFF", {"save_all": True, "append_images": frames}),
        "plain.ppm": (colour, "PPM", {}),
        "plain.avif": (colour, "AVIF", {}),
        "alpha.avif": (colour.convert("RGBA"), "AVIF", {"quality": 40}),
        "wide.jpg": (colour, "JPEG", {"icc_profile": profile(*DISPLAY_P3)}),
        "fax.tiff": (colour.convert("1"), "TIFF", {"compression": "group4"}),
    }
    found = {}
    for name, (picture, kind, options) in made.items():
        stream = io.BytesIO()
        picture.save(stream, kind, **options)
        found[name] = stream.getvalue()
    return found
