"""The one file that imports pillow_heif: HEIC, the photos of iPhones and many other phones."""

from __future__ import annotations

import io

from PIL import Image

from icgan_runtime.errors import DecodeError


def open_heic(stream: io.BytesIO) -> Image.Image:
    """A HEIC file with its header read; it comes upright. DecodeError where the extra is not installed."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise DecodeError("HEIC needs pillow-heif: pip install 'icgan[heif]', or save it as JPEG") from None
    picture: Image.Image = HeifImageFile(stream)  # type: ignore[no-untyped-call]
    return picture
