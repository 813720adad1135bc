import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from icgan_runtime import images
from icgan_runtime.reader import colour
from tests.picture_files import ADOBE_RGB, DISPLAY_P3, SRGB, encoded, needs_heif, photo, profile

WIDE = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB}
COLOURS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.mark.parametrize("space", WIDE)
def test_colours_are_those_of_littlecms_within_a_level(space):
    wide = profile(*WIDE[space])
    expected = ImageCms.profileToProfile(
        Image.fromarray(COLOURS),
        ImageCms.ImageCmsProfile(io.BytesIO(wide)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    difference = np.abs(colour.to_srgb(COLOURS, wide).astype(int) - np.asarray(expected))
    assert difference.max() <= 1
    assert difference.mean() < 0.1
    assert np.abs(colour.to_srgb(COLOURS, wide).astype(int) - COLOURS).mean() > 5, "nothing was done"


@pytest.mark.parametrize("space", WIDE)
def test_white_stays_white_and_black_black(space):
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert np.array_equal(colour.to_srgb(ends, profile(*WIDE[space])), ends)


def test_a_picture_that_says_it_is_srgb_keeps_every_byte():
    mine, theirs = profile(*SRGB), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for said in (mine, theirs):
        assert colour.to_srgb(COLOURS, said) is COLOURS


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p[:200],
        lambda p: p[:132],
        lambda p: b"",
        lambda p: p.replace(b"RGB XYZ ", b"CMYKLab "),
        lambda p: p.replace(b"acsp", b"nope"),
        lambda p: p.replace(b"rXYZ", b"A2B0"),
        lambda p: p.replace(b"para", b"what"),
    ],
)
def test_a_profile_that_is_damaged_or_of_another_kind_changes_nothing(spoil):
    assert colour.to_srgb(COLOURS, spoil(profile(*DISPLAY_P3))) is COLOURS


@given(space=st.sampled_from([DISPLAY_P3, ADOBE_RGB]), data=st.data())
def test_a_profile_with_bytes_changed_at_random_gives_a_picture(space, data):
    changed = bytearray(profile(*space))
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(128, len(changed) - 1))] = data.draw(st.integers(0, 255))
    found = colour.to_srgb(COLOURS[:4, :4], bytes(changed))
    assert found.shape == (4, 4, 3)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 200.0])
def test_a_curve_of_any_exponent_gives_a_picture(exponent):
    wide = profile(*DISPLAY_P3).replace(
        (round(2.4 * 65536)).to_bytes(4, "big"), round(exponent * 65536).to_bytes(4, "big", signed=True)
    )
    assert colour.to_srgb(COLOURS, wide).shape == COLOURS.shape


def test_a_profile_beyond_the_limit_changes_nothing(monkeypatch):
    monkeypatch.setattr(colour, "MAX_PROFILE_BYTES", 100)
    assert colour.to_srgb(COLOURS, profile(*DISPLAY_P3)) is COLOURS


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", pytest.param("HEIC", marks=needs_heif)]
)
def test_the_profile_of_every_container_is_followed(kind):
    wide = profile(*DISPLAY_P3)
    stored = images.decode(encoded(photo(), kind), 40)
    np.testing.assert_array_equal(
        images.decode(encoded(photo(), kind, icc_profile=wide), 40), colour.to_srgb(stored, wide)
    )


def test_a_picture_that_pillow_opened_is_read_as_its_file_is():
    data = encoded(photo(), "PNG", icc_profile=profile(*DISPLAY_P3))
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(images.load(opened, 40), images.decode(data, 40))


def test_a_wide_picture_of_sixteen_bits_and_a_turned_one_keep_their_profile():
    wide = profile(*DISPLAY_P3)
    turned = Image.Exif()
    turned[0x0112] = 3
    stored = photo().transpose(Image.Transpose.ROTATE_180)
    data = encoded(stored, "PNG", icc_profile=wide, exif=turned.tobytes())
    np.testing.assert_array_equal(
        images.decode(data, 40), images.decode(encoded(photo(), "PNG", icc_profile=wide), 40)
    )
