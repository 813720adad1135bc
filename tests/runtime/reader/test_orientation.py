import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from icgan_runtime import images
from icgan_runtime.reader import decode, orientation
from tests.picture_files import CONTAINERS, ORIENTED, encoded, exif, photo, xmp

METHODS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("said", METHODS)
@pytest.mark.parametrize("name", CONTAINERS)
def test_one_rule_says_which_sources_turn_a_picture(name, said):
    _, write, counts = ORIENTED[name]
    stored = np.asarray(decode.to_rgb(write(photo(), 1)))
    method = METHODS[said] if counts else None
    wanted = stored if method is None else np.asarray(Image.fromarray(stored).transpose(method))
    np.testing.assert_array_equal(np.asarray(decode.to_rgb(write(photo(), said))), wanted)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_pillow_opened_is_turned_as_its_file_is(kind):
    data = encoded(photo(), kind, exif=exif(6))
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(images.load(opened, 32), images.decode(data, 32))
        upright = ImageOps.exif_transpose(opened)
    np.testing.assert_array_equal(images.load(upright, 32), images.decode(data, 32))


def entry(tag: int = 0x0112, kind: int = 3, count: int = 1, value: int = 6) -> bytes:
    return struct.pack("<HHIHxx", tag, kind, count, value)


def directory(*entries: bytes) -> bytes:
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (directory(entry()), 6),
        (b"Exif\0\0" + directory(entry()), 6),
        (exif(8), 8),
        (directory(entry(tag=0x0100), entry(value=3)), 3),
        (directory(entry(value=3), entry(value=6)), 3),
        (directory(entry(value=0)), 1),
        (directory(entry(value=9)), 1),
        (directory(entry(kind=1)), 1),
        (directory(entry(kind=4)), 1),
        (directory(entry(count=2)), 1),
        (directory(), 1),
        (directory(entry())[:12], 1),
        (b"II*\0\xff\xff\xff\x7f", 1),
        (b"", 1),
        (b"Exif\0\0", 1),
        (b"PK\3\4" + bytes(40), 1),
        (xmp(6), 1),
    ],
)
def test_the_first_directory_says_it_in_one_short_or_not_at_all(said, found):
    assert orientation.of_exif(said) == found


def test_damaged_exif_leaves_the_pixels_usable():
    sound, damaged = encoded(photo(), "PNG"), encoded(photo(), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(images.decode(damaged, 32), images.decode(sound, 32))
