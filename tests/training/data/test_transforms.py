"""Training reads pictures by the runtime's reader; its rules are tested in tests/runtime/reader."""

from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from icgan_runtime import images
from icgan_runtime.errors import DecodeError
from icgan_runtime.reader import decode
from icgan_runtime.reader.formats import FORMATS
from icgan_training.data.sources import open_source
from icgan_training.data.transforms import read_picture, square
from icgan_training.errors import DataError
from tests.picture_files import CONTAINERS, KINDS, ORIENTED, encoded

SIZE = 64


def test_a_plain_picture_becomes_a_square_of_bytes(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    read = read_picture(tmp_path / "photo.png", SIZE)
    assert read.shape == (SIZE, SIZE, 3)
    assert read.dtype == np.uint8
    assert np.array_equal(read, square(np.asarray(photo), SIZE))


def test_the_middle_of_the_long_side_is_kept():
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 200
    assert (square(stripes, 10) == 200).all()


def test_a_large_picture_is_reduced_without_aliasing(tmp_path):
    checkers = np.indices((3000, 4000)).sum(axis=0) % 2 * 255
    Image.fromarray(checkers.astype(np.uint8)).save(tmp_path / "large.png")
    assert np.abs(read_picture(tmp_path / "large.png", SIZE).astype(int) - 127).max() <= 2


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_a_file_that_is_not_a_whole_picture_is_named(photo, tmp_path, damage):
    content = {"empty": b"", "text": b"not a picture", "truncated": encoded(photo, "JPEG")[:3000]}[damage]
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.jpg: (not a JPEG|cannot be decoded)"):
        read_picture(path, SIZE)


def test_a_program_under_the_name_of_a_picture_is_not_run(photo, tmp_path, monkeypatch):
    interpreter = tmp_path / "gs"
    interpreter.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(interpreter))
    path = tmp_path / "photo.jpg"
    photo.save(path, "EPS")
    with pytest.raises(DataError, match=r"photo\.jpg: an EPS file, which is not read"):
        read_picture(path, SIZE)
    assert not (tmp_path / "ran").exists()


def outcome(read, *arguments):
    try:
        return read(*arguments).tobytes()
    except (DataError, DecodeError):
        return "refused"


SOUND: dict[str, dict[str, Any]] = {kind: {} for kind in FORMATS} | {
    "TIFF, LZW": {"compression": "tiff_lzw"},
    "TIFF, deflate": {"compression": "tiff_adobe_deflate"},
    "JPEG, progressive": {"progressive": True},
}
PLACES = 15


def overwritten(data, start, rng):
    return data[:start] + rng.bytes(24) + data[start + 24 :]


def zeroed(data, start, _):
    return data[:start] + bytes(24) + data[start + 24 :]


def cut(data, start, _):
    return data[:start]


@pytest.mark.parametrize("damage", [overwritten, zeroed, cut])
@pytest.mark.parametrize("kind", [*KINDS, *list(SOUND)[len(KINDS) :]])
def test_a_damaged_file_trains_no_model_that_the_runtime_would_not_show(photo, tmp_path, kind, damage):
    data = encoded(photo.resize((90, 60)), kind.partition(",")[0], **SOUND[kind])
    sound = images.decode(data, SIZE).tobytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for index, start in enumerate(np.linspace(8, len(data) - 30, PLACES).astype(int)):
        path = tmp_path / f"{index}.jpg"
        path.write_bytes(damage(data, int(start), rng))
        outcomes.append(outcome(read_picture, path, SIZE))
        assert outcomes[-1] == outcome(images.decode, path.read_bytes(), SIZE)
        assert outcomes[-1] == outcome(open_source(tmp_path).read, 0, SIZE)
        path.unlink()
    if kind == "PNG":  # everything in it has a checksum
        assert set(outcomes) <= {"refused", sound}
    if damage is cut and kind != "GIF":  # which may end early in its colours that nobody uses
        assert "refused" in outcomes


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_whose_data_do_not_unpack_is_refused_and_no_black_picture(photo, tmp_path, compression):
    data = bytearray(encoded(photo, "TIFF", compression=compression))
    data[200:224] = np.random.default_rng(0).bytes(24)
    (tmp_path / "scrambled.tif").write_bytes(data)
    with pytest.raises(DataError, match=r"scrambled\.tif: cannot be decoded"):
        read_picture(tmp_path / "scrambled.tif", SIZE)


def test_samples_of_32_bits_are_refused_with_advice(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "f.tif")
    Image.fromarray(np.full((8, 8), 1 << 20, np.int32)).save(tmp_path / "i.tif")
    for name in ("f.tif", "i.tif"):
        with pytest.raises(DataError, match=rf"{name}: 32-bit samples .*; save the picture with 8"):
            read_picture(tmp_path / name, SIZE)


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("size", [32, 256])
def test_training_and_the_runtime_see_the_same_pixels(photo, tmp_path, name, size):
    ending, write, _ = ORIENTED[name]
    path = tmp_path / f"picture.{ending}"
    path.write_bytes(write(photo, 6))
    assert np.array_equal(read_picture(path, size), images.load(path, size))


def test_a_picture_of_absurd_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 9999)
    path = tmp_path / "vast.png"
    Image.new("L", (100, 100)).save(path)
    with pytest.raises(DataError, match=r"vast\.png: 100 × 100 pixels, at most 9999 are accepted"):
        read_picture(path, SIZE)
