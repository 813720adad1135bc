import io

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, features

from icgan_runtime import images
from icgan_training.data.transforms import read_picture, square, to_rgb
from icgan_training.errors import DataError

SIZE = 64


def mean_difference(one, other):
    return np.abs(one.astype(float) - other.astype(float)).mean()


@pytest.fixture(scope="module")
def plain(photo):
    return square(photo, SIZE)


def read_saved(image, path, **options):
    image.save(path, **options)
    return read_picture(path, SIZE)


def test_a_plain_picture_becomes_a_square_of_bytes(photo, tmp_path, plain):
    read = read_saved(photo, tmp_path / "photo.png")
    assert read.shape == (SIZE, SIZE, 3)
    assert read.dtype == np.uint8
    assert np.array_equal(read, plain)


def test_the_middle_of_the_long_side_is_kept():
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 200
    assert (square(Image.fromarray(stripes), 10) == 200).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(photo, tmp_path, plain, orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = photo.transpose(undo[orientation]) if orientation in undo else photo
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read_saved(stored, tmp_path / "turned.png", exif=exif), plain)


def test_a_cmyk_jpeg_keeps_its_colours(photo, tmp_path, plain):
    read = read_saved(photo.convert("CMYK"), tmp_path / "cmyk.jpg", quality=95)
    assert mean_difference(read, plain) < 4


def test_a_grey_picture_has_three_equal_channels(photo, tmp_path):
    read = read_saved(photo.convert("L"), tmp_path / "grey.jpg")
    assert (read[..., 0] == read[..., 1]).all()
    assert (read[..., 0] == read[..., 2]).all()
    assert read.std() > 10


def test_a_sixteen_bit_picture_is_scaled_not_clipped(photo, tmp_path):
    grey = np.asarray(photo.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    read = read_saved(deep, tmp_path / "deep.png")
    assert np.array_equal(read, square(Image.fromarray(grey).convert("RGB"), SIZE))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_parts_become_white(photo, tmp_path, mode):
    image = photo.convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    if mode == "PA":  # palette with a transparent entry, as in a GIF
        palette = Image.new("P", image.size, 0)
        palette.info["transparency"] = 0
        read = read_saved(palette, tmp_path / "alpha.png", transparency=0)
    else:
        read = read_saved(image.convert(mode), tmp_path / "alpha.png")
    assert (read == 255).all()


def test_half_transparent_black_is_grey(tmp_path):
    read = read_saved(Image.new("RGBA", (20, 20), (0, 0, 0, 128)), tmp_path / "half.png")
    assert (read == 127).all()


def test_a_large_picture_is_reduced_without_aliasing(tmp_path):
    checkers = np.indices((3000, 4000)).sum(axis=0) % 2 * 255
    read = read_saved(Image.fromarray(checkers.astype(np.uint8)), tmp_path / "large.png")
    assert np.abs(read.astype(int) - 127).max() <= 2


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    path = tmp_path / "film.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert (read_picture(path, 8)[..., 0] > 250).all()


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_a_file_that_is_not_a_whole_picture_is_named(photo, tmp_path, damage):
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    content = {"empty": b"", "text": b"not a picture", "truncated": buffer.getvalue()[:3000]}[damage]
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.jpg: not a readable picture"):
        read_picture(path, SIZE)


def test_a_program_under_the_name_of_a_picture_is_not_run(photo, tmp_path, monkeypatch):
    interpreter = tmp_path / "gs"
    interpreter.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(interpreter))
    path = tmp_path / "photo.jpg"
    photo.save(path, "EPS")
    with pytest.raises(DataError, match=r"photo\.jpg: not a readable picture \(EPS is a program"):
        read_picture(path, SIZE)
    assert not (tmp_path / "ran").exists()


def turned(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    return image, {"exif": exif}


def sixteen_bits(image):
    low_bytes = np.arange(image.width, dtype=np.uint16) % 256
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256 + low_bytes), {}


def half_transparent(image):
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image, {}


@pytest.mark.parametrize(
    ("suffix", "make"),
    [
        ("png", lambda image: (image, {})),
        ("png", lambda image: (image.transpose(Image.Transpose.ROTATE_90), {})),  # tall instead of wide
        ("png", lambda image: (image.crop((0, 0, 347, 201)), {})),  # no exact middle
        ("png", sixteen_bits),
        ("png", half_transparent),
        ("png", lambda image: (image.convert("1"), {})),
        ("jpg", turned),
        ("jpg", lambda image: (image.convert("CMYK"), {})),
        ("jpg", lambda image: (image.convert("L"), {})),
        ("gif", lambda image: (image, {})),
        ("webp", lambda image: (image, {})),
        ("tiff", turned),
        ("bmp", lambda image: (image, {})),
    ],
)
@pytest.mark.parametrize("size", [32, 256])
def test_training_and_the_runtime_see_the_same_pixels(photo, tmp_path, suffix, make, size):
    path = tmp_path / f"picture.{suffix}"
    image, options = make(photo)
    image.save(path, **options)
    assert np.array_equal(read_picture(path, size), images.load(path, size))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_file_is_a_picture_or_a_named_error_whatever_the_decoder_raises(photo, tmp_path):
    # Pillow reports some of these as RuntimeError.
    path = tmp_path / "bad.avif"
    photo.resize((40, 30)).save(path)
    content = path.read_bytes()
    refused = 0
    for position in range(4, 320, 4):
        path.write_bytes(content[:position] + b"\xff\xff\xff\xff" + content[position + 4 :])
        try:
            read_picture(path, SIZE)
        except DataError:
            refused += 1
    assert refused > 10


def test_damaged_exif_around_sound_pixels_does_no_harm(photo, tmp_path, monkeypatch):
    def damaged(_):
        raise TypeError("'IFDRational' object cannot be interpreted as an integer")

    photo.save(tmp_path / "a.png")
    expected = read_picture(tmp_path / "a.png", SIZE)
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", damaged)
    assert np.array_equal(read_picture(tmp_path / "a.png", SIZE), expected)


def test_a_picture_of_absurd_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "bomb.png"
    Image.new("L", (100, 100)).save(path)
    with pytest.raises(DataError, match="bomb"):
        read_picture(path, SIZE)


def test_an_opaque_rgb_picture_is_left_alone(photo):
    assert np.array_equal(np.asarray(to_rgb(photo)), np.asarray(photo))
