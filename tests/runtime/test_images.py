import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from icgan_runtime import images
from icgan_runtime.errors import DecodeError

PHOTO = Path(__file__).parents[1] / "golden" / "photo.jpg"
SIZE = 24


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A real photograph, reduced so that the tests are quick."""
    with Image.open(PHOTO) as opened:
        return opened.convert("RGB").resize((60, 40))


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def difference(a, b) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def reference(picture: Image.Image) -> np.ndarray:
    """The input of the encoder, written down a second time: crop to the centre square, bilinear resize."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(
        picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_decode_to_the_same_input(photo, kind, options):
    np.testing.assert_array_equal(images.decode(encoded(photo, kind, **options), SIZE), reference(photo))


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("GIF", {})]
)
def test_lossy_formats_decode_to_nearly_the_same_input(photo, kind, options):
    assert difference(images.decode(encoded(photo, kind, **options), SIZE), reference(photo)) < 4


def test_path_bytes_picture_and_array_are_the_same_input(photo, tmp_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    wanted = reference(photo)
    for picture in (path, str(path), path.read_bytes(), photo, np.asarray(photo)):
        np.testing.assert_array_equal(images.load(picture, SIZE), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_undone(photo, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo, kind, exif=exif.tobytes() if kind != "TIFF" else exif)
    with Image.open(io.BytesIO(data)) as opened:
        wanted = reference(ImageOps.exif_transpose(opened).convert("RGB"))
    np.testing.assert_array_equal(images.decode(data, SIZE), wanted)


def test_damaged_exif_leaves_the_pixels_usable(photo):
    data = encoded(photo, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(images.decode(data, SIZE), reference(photo))


def test_transparency_is_shown_on_white():
    clear = Image.new("RGBA", (30, 30), (255, 0, 0, 0))
    half = Image.new("RGBA", (30, 30), (0, 0, 0, 128))
    palette = Image.new("P", (30, 30), 3)
    palette.putpalette([0, 0, 0] * 4)
    grey = Image.new("LA", (30, 30), (0, 0))
    assert images.decode(encoded(clear, "PNG"), SIZE).min() == 255
    assert np.unique(images.decode(encoded(half, "PNG"), SIZE)).tolist() == [127]
    assert images.decode(encoded(palette, "PNG", transparency=3), SIZE).min() == 255
    assert images.decode(encoded(palette, "GIF", transparency=3), SIZE).min() == 255
    assert images.decode(encoded(grey, "PNG"), SIZE).min() == 255
    assert images.load(clear, SIZE).min() == 255


def test_grey_cmyk_and_bilevel_become_rgb(photo):
    grey = images.decode(encoded(photo.convert("L"), "PNG"), SIZE)
    np.testing.assert_array_equal(grey, reference(photo.convert("L").convert("RGB")))
    assert difference(images.decode(encoded(photo.convert("CMYK"), "JPEG"), SIZE), reference(photo)) < 8
    assert set(np.unique(images.decode(encoded(Image.new("1", (9, 9), 1), "PNG"), SIZE))) == {255}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_brightness(kind):
    values = np.linspace(0, 65535, 24 * 24).astype(np.uint16).reshape(24, 24)
    decoded = images.decode(encoded(Image.fromarray(values), kind), 24)
    np.testing.assert_array_equal(decoded[..., 0], values >> 8)


def test_sixteen_bit_colour_png_keeps_its_brightness():
    row = b"\0" + struct.pack(">3H", 65535, 32896, 257) * 4
    data = png(4, 4, zlib.compress(row * 4), depth=16, colour=2)
    assert images.decode(data, 4)[0, 0].tolist() == [255, 128, 1]


def test_only_the_first_frame_of_an_animation_is_shown(photo):
    frames = [Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert images.decode(data, SIZE)[0, 0].tolist() == [255, 0, 0], kind


def png(width, height, pixels, depth=8, colour=0):
    """A PNG put together by hand, so that its header can lie."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8193, 60_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    with pytest.raises(DecodeError, match=r"pixels, at most 67108864|cannot be decoded"):
        images.decode(png(side, side, zlib.compress(bytes(1000))), SIZE)


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(images.MAX_ENCODED_BYTES + 1)
    with pytest.raises(DecodeError, match=r"large\.jpg: 67108865 bytes, at most 67108864"):
        images.load(path, SIZE)
    with pytest.raises(DecodeError, match="67108865 bytes"):
        images.load(path.read_bytes(), SIZE)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    path = tmp_path / "letter.jpg"
    path.write_text("Dear all")
    with pytest.raises(DecodeError) as caught:
        images.load(path, SIZE)
    assert str(caught.value) == f"image: {path}: not a JPEG, PNG, WEBP, GIF, BMP or TIFF picture"


def test_a_picture_may_have_as_many_pixels_and_bytes_as_the_limits_say(photo, monkeypatch):
    data = encoded(photo, "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 60 * 40)
    monkeypatch.setattr(images, "MAX_ENCODED_BYTES", len(data))
    for picture in (data, photo, np.asarray(photo)):
        assert images.load(picture, SIZE).shape == (SIZE, SIZE, 3)
    with pytest.raises(DecodeError) as caught:
        images.decode(data + b"0", SIZE)
    assert str(caught.value) == f"image: {len(data) + 1} bytes, at most {len(data)} are accepted"
    monkeypatch.setattr(images, "MAX_PIXELS", 60 * 40 - 1)
    for picture in (data, photo, np.asarray(photo)):
        with pytest.raises(DecodeError) as caught:
            images.load(picture, SIZE)
        assert str(caught.value) == "image: 60 × 40 pixels, at most 2399 are accepted"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"GIF",
        b"BM",
        b"\xff\xd8\xff",
        b"II*\0",
        b"%PDF-1.4",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"P6 1 1 255 abc",
    ],
)
def test_what_is_not_a_picture_is_refused(data):
    with pytest.raises(DecodeError, match=r"image: (not a JPEG|cannot be decoded)"):
        images.decode(data, SIZE)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "WEBP"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),  # either order of bytes
        (b"MM\0*", "TIFF"),
        (b"RIFF\x24\0\0\0WAVEfmt ", None),
        (b"FORM\x24\0\0\0WEBP", None),
        (b"GIF88a", None),
        (b"\xff\xd8", None),
        (b"II*", None),
    ],
)
def test_a_format_is_known_by_its_first_bytes(head, kind):
    assert images.sniff(head) == kind


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "JPEG2000", "SGI", "ICNS", "DDS"])
def test_formats_off_the_list_are_refused_even_if_pillow_knows_them(photo, kind):
    with pytest.raises(DecodeError, match="not a JPEG, PNG, WEBP, GIF, BMP or TIFF picture"):
        images.decode(encoded(photo, kind), SIZE)


@pytest.mark.parametrize("kind", images.FORMATS)
def test_a_truncated_picture_is_refused(photo, kind):
    data = encoded(photo, kind)
    with pytest.raises(DecodeError, match="cannot be decoded"):
        images.decode(data[: len(data) // 2], SIZE)


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


def test_a_path_that_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(DecodeError, match=r"absent\.jpg: cannot be read \(No such file or directory\)"):
        images.load(tmp_path / "absent.jpg", SIZE)
    with pytest.raises(DecodeError, match="Is a directory"):
        images.load(tmp_path, SIZE)
    with pytest.raises(DecodeError, match="null byte"):
        images.load("a\0b", SIZE)


def test_thirty_two_bit_samples_are_refused_with_advice():
    with pytest.raises(DecodeError, match=r"32-bit samples \(mode F\); save the picture with 8 or 16 bits"):
        images.load(Image.new("F", (9, 9)), SIZE)


@settings(max_examples=300)
@given(kind=st.sampled_from(images.FORMATS), data=st.data())
def test_bytes_changed_at_random_decode_or_are_refused(photo, kind, data):
    changed = bytearray(encoded(photo.resize((12, 8)), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert images.decode(bytes(changed), SIZE).shape == (SIZE, SIZE, 3)
    except DecodeError as error:
        assert error.field == "image"  # noqa: PT017


@given(
    st.binary(max_size=200),
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"\xff\xd8\xff"]),
)
@example(b"", b"RIFF\0\0\0\0WEBP")
def test_noise_behind_a_signature_is_refused(noise, signature):
    with pytest.raises(DecodeError):
        images.decode(signature + noise, SIZE)


def bmp(compression: int, pixels: bytes) -> bytes:
    """An 8-bit BMP of 4 x 4 put together by hand; 0 is plain, 1 and 2 are run-length encodings."""
    palette = bytes(range(256)) * 4
    start = 14 + 40 + len(palette)
    depth = 4 if compression == 2 else 8
    head = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, depth, compression, len(pixels), 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + head + palette + pixels


def test_a_bmp_in_run_length_encoding_is_refused_with_advice(photo):
    assert images.decode(bmp(0, bytes(16)), SIZE).shape == (SIZE, SIZE, 3)
    for compression in (1, 2):
        with pytest.raises(DecodeError) as caught:
            images.decode(bmp(compression, b"\x10\0\0\1"), SIZE)
        assert str(caught.value) == "image: a BMP in run-length encoding; save it as PNG"
    # a TIFF may say "compression" too, and means something else
    assert images.decode(encoded(photo, "TIFF", compression="tiff_lzw"), SIZE).shape == (SIZE, SIZE, 3)


def passes(side: int, more: int) -> bytes:
    """A progressive JPEG with its last scan, of 16 bytes, over and over again."""
    data = encoded(Image.new("L", (side, side), 200), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert len(last) == 16
    return data[:-2] + last * more + data[-2:]


def test_a_jpeg_that_goes_over_its_pixels_again_and_again_is_refused():
    assert images.decode(passes(2048, 5), SIZE).shape == (SIZE, SIZE, 3)
    with pytest.raises(DecodeError) as caught:
        images.decode(passes(2048, 300), SIZE)
    assert str(caught.value) == "image: a JPEG of 306 scans; save it again"


def test_what_stands_behind_a_jpeg_is_not_counted_among_its_scans():
    picture = passes(2048, 0)
    film = b"\xff\xda film " * 300
    np.testing.assert_array_equal(images.decode(picture + film, SIZE), images.decode(picture, SIZE))


def in_pieces(kind: str, count: int) -> bytes:
    """A picture of 8 x 8 with so many empty parts that say nothing of it."""
    data = encoded(Image.new("L", (8, 8)), kind)
    part, place = {
        "JPEG": (b"\xff\xfe\0\2", 2),
        "PNG": (struct.pack(">I4sI", 0, b"prVt", zlib.crc32(b"prVt")), 33),
        "GIF": (b"\x21\xfe\1a\0", data.find(b",\0\0\0\0\x08\0\x08\0")),
    }[kind]
    return data[:place] + part * count + data[place:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_a_picture_in_very_many_tiny_pieces_is_refused(kind):
    assert images.decode(in_pieces(kind, 1000), SIZE).shape == (SIZE, SIZE, 3)
    with pytest.raises(DecodeError) as caught:
        images.decode(in_pieces(kind, 70_000), SIZE)
    assert str(caught.value) == "image: made of too many tiny pieces; save it again"


def test_exif_in_very_many_segments_is_refused():
    data = encoded(Image.new("L", (8, 8)), "JPEG")
    segment = b"\xff\xe1\0\x0aExif\0\0ab"
    assert images.decode(data[:2] + segment * 2 + data[2:], SIZE).shape == (SIZE, SIZE, 3)
    with pytest.raises(DecodeError, match="EXIF in too many pieces"):
        images.decode(data[:2] + segment * 4000 + data[2:], SIZE)


def directory(order: str, *tags: tuple[int, int, int, int]) -> bytes:
    """A TIFF that ends with its directory: (tag, kind, how many values, value or place)."""
    entries = b"".join(struct.pack(f"{order}HHII", *tag) for tag in sorted(tags))
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return head + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_very_many_strips_is_refused(order):
    strips = 300_000
    size = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 4, 1, 8), (259, 4, 1, 1), (262, 4, 1, 1), (278, 4, 1, 1)]
    data = directory(order, *size, (273, 4, strips, 8), (279, 4, strips, 8)) + bytes(4 * strips)
    with pytest.raises(DecodeError) as caught:
        images.decode(data, SIZE)
    assert str(caught.value) == "image: a tag of 300000 numbers; save it again"


def test_a_tiff_may_have_a_tag_of_very_many_bytes(photo):
    data = encoded(photo, "TIFF", icc_profile=bytes(300_000))
    np.testing.assert_array_equal(images.decode(data, SIZE), reference(photo))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_of_very_many_numbers_is_not_read(kind, monkeypatch):
    few, many = (
        directory("<", (0x0112, 3, count, 6 if count == 1 else 30)) + struct.pack("<H", 6) * count
        for count in (1, 300_000)
    )
    picture = Image.new("RGB", (20, 10), "white")
    picture.putpixel((10, 0), (0, 0, 0))
    plain = images.decode(encoded(picture, kind, lossless=True), SIZE)
    turned = images.decode(encoded(picture, kind, lossless=True, exif=few), SIZE)
    assert not np.array_equal(turned, plain)

    monkeypatch.setattr(Image.Image, "getexif", lambda picture: pytest.fail("read"))
    np.testing.assert_array_equal(
        images.decode(encoded(picture, kind, lossless=True, exif=b"Exif\0\0" + many), SIZE), plain
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("broken data stream"), "broken data stream"),
        (ValueError("first line\nsecond line"), "first line"),
        (IndexError(), "IndexError"),
        (MemoryError("\n"), "MemoryError"),
    ],
    ids=["message", "two lines", "none", "empty line"],
)
def test_whatever_the_decoder_raises_is_told_in_one_line(photo, monkeypatch, error, reason):
    def fail(*_):
        raise error

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(DecodeError) as caught:
        images.load(photo.copy(), SIZE)
    assert str(caught.value) == f"image: cannot be decoded ({reason})"


def test_a_grid_places_pictures_row_by_row_on_white():
    pictures = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = images.grid(pictures, columns=2, gap=1)
    assert sheet.shape == (5, 5, 3)
    assert sheet[:, :, 0].tolist() == [
        [10, 10, 255, 20, 20],
        [10, 10, 255, 20, 20],
        [255, 255, 255, 255, 255],
        [30, 30, 255, 255, 255],
        [30, 30, 255, 255, 255],
    ]
    assert images.grid(pictures[:1]).shape == (2, 2, 3)
    assert images.grid(pictures, columns=9, gap=0).shape == (2, 6, 3)


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (5, 3, 2), (9, 3, 3), (10, 4, 3)]
)
def test_a_grid_is_as_square_as_it_can_be_with_a_gap_of_two(count, columns, rows):
    sheet = images.grid(np.zeros((count, 4, 5, 3), np.uint8))
    assert sheet.shape == (rows * 6 - 2, columns * 7 - 2, 3)
    assert (sheet == 0).all(axis=2).sum() == count * 4 * 5


def test_files_are_png_unless_asked_and_jpeg_of_high_quality(photo):
    image = np.asarray(photo)
    assert images.encode(image) == images.encode(image, "PNG") == encoded(photo, "PNG")
    assert images.encode(image, "JPEG") == encoded(photo, "JPEG", quality=95)


@pytest.mark.parametrize(("kind", "exact"), [("PNG", True), ("WEBP", True), ("JPEG", False)])
def test_encoding_and_decoding_gives_the_picture_back(photo, kind, exact):
    original = np.asarray(photo.resize((SIZE, SIZE)))
    decoded = images.decode(images.encode(original, kind), SIZE)
    assert difference(decoded, original) <= (0 if exact else 6)
