import base64
import os

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import images
from icgan_runtime.errors import DecodeError
from tests.picture_files import encoded
from tests.picture_files import photo as small_photo

SIZE = 24


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return small_photo()


def difference(a, b) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def reference(picture: Image.Image) -> np.ndarray:
    """The input of the encoder, written down a second time: crop to the centre square, bilinear resize."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(
        picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    )


def test_path_bytes_picture_and_array_are_the_same_input(photo, tmp_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    wanted = reference(photo)
    for picture in (path, str(path), path.read_bytes(), photo, np.asarray(photo)):
        np.testing.assert_array_equal(images.load(picture, SIZE), wanted)


def test_a_squeezed_picture_is_all_of_it(photo):
    wanted = np.asarray(photo.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert photo.width != photo.height
    for picture in (encoded(photo, "PNG"), photo, np.asarray(photo)):
        np.testing.assert_array_equal(images.load(picture, SIZE, images.SQUEEZE), wanted)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    path = tmp_path / "letter.jpg"
    path.write_text("Dear all")
    with pytest.raises(DecodeError) as caught:
        images.load(path, SIZE)
    assert (
        str(caught.value)
        == f"picture: {path}: not a JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, AVIF or HEIC picture"
    )


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
)
def test_an_array_of_another_shape_or_dtype_is_refused(array):
    with pytest.raises(DecodeError, match=r"expected uint8\[H, W, 3\]"):
        images.load(array, SIZE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_among_pictures_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DecodeError, match=r"a\.jpg: not a regular file: pipes and devices are not read"):
        images.load(tmp_path / "a.jpg", 8)


def test_a_path_that_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(DecodeError, match=r"absent\.jpg: cannot be read \(No such file or directory\)"):
        images.load(tmp_path / "absent.jpg", SIZE)
    with pytest.raises(DecodeError, match="Is a directory"):
        images.load(tmp_path, SIZE)
    with pytest.raises(DecodeError, match="null byte"):
        images.load("a\0b", SIZE)


def test_files_are_png_unless_asked_and_jpeg_of_high_quality(photo):
    image = np.asarray(photo)
    assert images.encode(image) == images.encode(image, "PNG") == encoded(photo, "PNG")
    assert images.encode(image, "JPEG") == encoded(photo, "JPEG", quality=95)


@pytest.mark.parametrize(("kind", "exact"), [("PNG", True), ("WEBP", True), ("JPEG", False)])
def test_encoding_and_decoding_gives_the_picture_back(photo, kind, exact):
    original = np.asarray(photo.resize((SIZE, SIZE)))
    decoded = images.decode(images.encode(original, kind), SIZE)
    assert difference(decoded, original) <= (0 if exact else 6)


TEXTS = {
    "standard": base64.standard_b64encode,
    "URL-safe": base64.urlsafe_b64encode,
    "line breaks": base64.encodebytes,
    "Windows line breaks": lambda data: base64.encodebytes(data).replace(b"\n", b"\r\n"),
    "unpadded": lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
    "data: URL": lambda data: b"data:image/png;base64," + base64.b64encode(data),
    "DATA: URL, for its head is in any case": lambda data: b"DATA:image/png;BASE64," + base64.b64encode(data),
    "data: URL after a line break": lambda data: b"\ndata:image/png;base64," + base64.b64encode(data),
    "data: URL with a parameter": lambda data: b"data:image/png;name=a.png;base64," + base64.b64encode(data),
}


@pytest.mark.parametrize("way", TEXTS)
@pytest.mark.parametrize("extra", range(3))  # whatever padding that leaves
def test_base64_is_read_however_it_is_written(photo, way, extra):
    data = encoded(photo, "PNG") + bytes([251, 255, 191][:extra])
    assert images.from_text(TEXTS[way](data)) == data


def test_what_is_no_base64_is_left_to_the_decoder():
    for text in (b"Dear all!", b"\xff\xd8\xff", b"abc=def", b"data:nothing", "é".encode()):
        assert images.from_text(text) is None
    with pytest.raises(DecodeError, match="a data: URL that is not base64"):
        images.from_text(b"data:image/svg+xml,%3Csvg/%3E")
