"""Which way is up: one rule for every container and language, written down in docs/format.md.

The Orientation tag (0x0112, one SHORT) of the first directory of a file's EXIF counts: JPEG's first Exif
segment, PNG's eXIf chunk, WebP's EXIF chunk, a TIFF itself. AVIF and HEIC turn by their container's own irot
and imir alone. Nothing else turns a picture: no XMP, no text chunk of ImageMagick's, no damaged EXIF.
"""

from __future__ import annotations

import struct

from PIL import Image

EXIF_HEAD = b"Exif\0\0"
_ORIENTATION, _SHORT = 0x0112, 3
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def of_exif(exif: object) -> int:
    """1 to 8, as EXIF bytes say, with or without their head; 1 for none, or where they are damaged."""
    if not isinstance(exif, bytes):
        return 1
    start = len(EXIF_HEAD) if exif.startswith(EXIF_HEAD) else 0
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[start : start + 4])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(f"{order}I", exif, start + 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start + place)
        for entry in range(entries):
            at = start + place + 2 + 12 * entry
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", exif, at)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and count == 1 and 1 <= value <= 8 else 1
    except struct.error:  # it ends too early
        pass
    return 1


def turned(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture upright."""
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture
