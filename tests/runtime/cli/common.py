"""A photo, and the size of a picture file."""

from __future__ import annotations

from PIL import Image

from tests import picture_files

PHOTO = str(picture_files.PHOTO)


def size(path) -> tuple[int, int]:
    """Width and height of a picture file."""
    with Image.open(path) as opened:
        return opened.size
