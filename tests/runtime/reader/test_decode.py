import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from icgan_runtime import images
from icgan_runtime.errors import DecodeError
from icgan_runtime.reader import decode
from icgan_runtime.reader.formats import FORMATS
from tests.picture_files import KINDS, chunk, encoded, exif, png
from tests.picture_files import photo as small_photo

SIZE = 24


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return small_photo()


def difference(a, b) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def reference(picture: Image.Image) -> np.ndarray:
    return images.to_input(picture, SIZE)


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
    data = png(4, 4, row * 4, depth=16, colour=2)
    assert images.decode(data, 4)[0, 0].tolist() == [255, 128, 1]


def test_only_the_first_frame_of_an_animation_is_shown(photo):
    frames = [Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert images.decode(data, SIZE)[0, 0].tolist() == [255, 0, 0], kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_picture_is_refused(photo, kind):
    data = encoded(photo, kind)
    with pytest.raises(DecodeError, match="cannot be decoded"):
        images.decode(data[: len(data) // 2], SIZE)


def test_thirty_two_bit_samples_are_refused_with_advice():
    with pytest.raises(DecodeError, match=r"32-bit samples \(mode F\); save the picture with 8 or 16 bits"):
        images.load(Image.new("F", (9, 9)), SIZE)


@settings(max_examples=300)
@given(kind=st.sampled_from(FORMATS[:-1]), data=st.data())
def test_bytes_changed_at_random_decode_or_are_refused(photo, kind, data):
    changed = bytearray(encoded(photo.resize((12, 8)), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert images.decode(bytes(changed), SIZE).shape == (SIZE, SIZE, 3)
    except DecodeError as error:
        assert error.field == "picture"  # noqa: PT017


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


def test_a_tiff_may_have_a_tag_of_very_many_bytes(photo):
    data = encoded(photo, "TIFF", icc_profile=bytes(300_000))
    np.testing.assert_array_equal(images.decode(data, SIZE), reference(photo))


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

    grey = photo.convert("L")
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(DecodeError) as caught:
        images.load(grey, SIZE)
    assert str(caught.value) == f"picture: cannot be decoded ({reason})"


def test_the_callers_own_picture_stays_as_it_is(photo):
    own = photo.copy()
    own.info["comment"] = b"kept"
    before = own.tobytes()
    images.load(own, SIZE)
    assert own.tobytes() == before
    assert own.info["comment"] == b"kept"


# ---- work is bounded: shown with small sound files and limits below what they need -----------------------


def refused_below(monkeypatch, limit: str, value: int, data: bytes, sentence: str) -> None:
    """`data` is read; with the limit at `value` it is refused by the sentence."""
    assert images.decode(data, SIZE).shape == (SIZE, SIZE, 3)
    monkeypatch.setattr(decode, limit, value)
    with pytest.raises(DecodeError) as caught:
        images.decode(data, SIZE)
    assert caught.value.problem == sentence


def test_a_picture_may_have_as_many_pixels_and_bytes_as_the_limits_say(photo, monkeypatch, tmp_path):
    data = encoded(photo, "PNG")
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "b.png").write_bytes(data + b"0")
    monkeypatch.setattr(decode, "MAX_PIXELS", 60 * 40)
    monkeypatch.setattr(decode, "MAX_ENCODED_BYTES", len(data))
    for picture in (data, photo, np.asarray(photo), tmp_path / "a.png"):
        assert images.load(picture, SIZE).shape == (SIZE, SIZE, 3)
    for picture in (data + b"0", tmp_path / "b.png"):
        with pytest.raises(DecodeError, match=f"{len(data) + 1} bytes, at most {len(data)} are accepted"):
            images.load(picture, SIZE)
    monkeypatch.setattr(decode, "MAX_PIXELS", 60 * 40 - 1)
    for picture in (data, photo, np.asarray(photo), tmp_path / "a.png"):
        with pytest.raises(DecodeError, match="60 × 40 pixels, at most 2399 are accepted"):
            images.load(picture, SIZE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_compared_with_the_limit_before_pixels_are_made(photo, monkeypatch, kind):
    data = encoded(photo, kind)
    monkeypatch.setattr(decode, "MAX_PIXELS", 60 * 40 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(DecodeError, match="60 × 40 pixels, at most 2399"):
        images.decode(data, SIZE)


def test_a_jpeg_may_go_over_its_pixels_only_so_often(photo, monkeypatch):
    data = encoded(photo, "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    refused_below(
        monkeypatch,
        "MAX_SCANNED_PIXELS",
        (scans - 1) * 60 * 40,
        data,
        f"a JPEG of {scans} scans; save it again",
    )


def test_what_stands_behind_a_jpeg_is_not_counted_among_its_scans(photo, monkeypatch):
    data = encoded(photo, "JPEG")
    monkeypatch.setattr(decode, "MAX_SCANNED_PIXELS", 2 * 60 * 40)
    np.testing.assert_array_equal(
        images.decode(data + b"\xff\xda film " * 9, SIZE), images.decode(data, SIZE)
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_a_file_may_be_read_in_only_so_many_pieces(photo, monkeypatch, kind):
    sentence = "made of too many tiny pieces; save it again"
    refused_below(monkeypatch, "MAX_READS", 5, encoded(photo, kind), sentence)


def test_exif_may_stand_in_only_so_many_segments(photo, monkeypatch):
    data = encoded(photo, "JPEG", exif=exif(1))
    refused_below(monkeypatch, "MAX_EXIF_SEGMENTS", 0, data, "EXIF in too many pieces; save it again")


def test_a_tag_may_hold_only_so_many_numbers(photo, monkeypatch):
    refused_below(
        monkeypatch, "MAX_TAG_VALUES", 2, encoded(photo, "TIFF"), "a tag of 3 numbers; save it again"
    )


@pytest.mark.parametrize("kind", KINDS[-2:])
def test_the_same_holds_for_exif_within_a_box(photo, monkeypatch, kind):
    tags = Image.Exif()
    tags[0x0102] = (8, 8, 8)
    refused_below(
        monkeypatch, "MAX_TAG_VALUES", 2, encoded(photo, kind, exif=tags), "a tag of 3 numbers; save it again"
    )


def test_a_bmp_in_run_length_encoding_is_refused_with_advice(photo):
    assert images.decode(bmp(0, bytes(16)), SIZE).shape == (SIZE, SIZE, 3)
    for compression in (1, 2):
        with pytest.raises(DecodeError) as caught:
            images.decode(bmp(compression, b"\4\0\0\0" * 3 + b"\4\0\0\1"), SIZE)
        assert caught.value.problem == "a BMP in run-length encoding; save it as PNG"
    # a TIFF may say "compression" too, and means something else
    assert images.decode(encoded(photo, "TIFF", compression="tiff_lzw"), SIZE).shape == (SIZE, SIZE, 3)


def test_a_ppm_of_other_depths_is_refused_with_advice():
    assert images.decode(b"P6 1 1 255 abc", 1).tolist() == [[[97, 98, 99]]]
    with pytest.raises(DecodeError, match="a PPM of other than 256 levels; save it as PNG"):
        images.decode(b"P6 1 1 15 abc", 1)


# ---- one colour of a PNG may be transparent --------------------------------------------------------------


def keyed(rows: bytes, width: int, depth: int, colour: int, *key: int) -> list[list[int]]:
    data = png(width, 1, b"\0" + rows, depth, colour, chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
    return np.asarray(decode.to_rgb(data))[0].tolist()


@pytest.mark.parametrize(
    ("rows", "depth", "key", "levels"),
    [
        (b"\x40", 1, 1, [0, 255]),
        (b"\x40", 1, 0, [255, 255]),
        (b"\x60", 2, 1, [255, 170]),
        (b"\x5f", 4, 5, [255, 255]),
        (b"\x5e", 4, 5, [255, 238]),
        (b"\x07\x64", 8, 7, [255, 100]),
        (struct.pack(">2H", 1000, 1001), 16, 1000, [255, 3]),
    ],
)
def test_grey_of_any_depth_hides_its_transparent_level(rows, depth, key, levels):
    assert keyed(rows, 2, depth, 0, key) == [[level] * 3 for level in levels]


def test_sixteen_bit_colour_hides_exactly_its_transparent_colour():
    rows = struct.pack(">6H", 1000, 2000, 3000, 1001, 2000, 3000)
    assert keyed(rows, 2, 16, 2, 1000, 2000, 3000) == [[255] * 3, [3, 7, 11]]


# ---- what phones write -----------------------------------------------------------------------------------


def test_of_several_pictures_in_a_jpeg_the_first_is_shown(photo):
    second = photo.transpose(Image.Transpose.ROTATE_180)
    film = encoded(photo, "MPO", save_all=True, append_images=[second])
    np.testing.assert_array_equal(images.decode(film, SIZE), images.decode(encoded(photo, "JPEG"), SIZE))


def test_an_ultra_hdr_photo_is_its_base_picture(photo):
    base, gain = encoded(photo, "JPEG"), encoded(photo.convert("L").resize((15, 10)), "JPEG")
    note = (
        b"http://ns.adobe.com/xap/1.0/\0"
        + b'<x xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
    )
    segment = b"\xff\xe1" + struct.pack(">H", len(note) + 2) + note
    np.testing.assert_array_equal(
        images.decode(base[:2] + segment + base[2:] + gain, SIZE), images.decode(base, SIZE)
    )
