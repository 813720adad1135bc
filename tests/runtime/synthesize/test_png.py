"""Our PNG files, read by Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from icgan_runtime.marks.metadata import find_xmp, xmp_packet
from icgan_runtime.synthesize.png import encode_png


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (64, 64), (37, 130)])
def test_every_pixel_comes_back(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    with Image.open(io.BytesIO(encode_png(image))) as opened:
        assert (opened.format, opened.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(opened), image)


def test_pillow_finds_no_fault_in_any_chunk():
    data = encode_png(np.zeros((4, 4, 3), np.uint8), xmp_packet(None))
    with Image.open(io.BytesIO(data)) as opened:
        opened.verify()
    assert find_xmp(data) == xmp_packet(None)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.info["XML:com.adobe.xmp"] == xmp_packet(None).decode()


def test_an_image_that_is_a_view_is_encoded_as_it_looks():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)[::-1, ::2]
    with Image.open(io.BytesIO(encode_png(image))) as opened:
        np.testing.assert_array_equal(np.asarray(opened), image)
