"""Images on their way to a file: sheets, names, formats, and what a kill or a full disk leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import Neighbours, Request, Result, sheets
from icgan_runtime.errors import RequestError


@pytest.fixture
def result() -> Result:
    """Four images of 8 × 8 in four shades."""
    images = np.zeros((4, 8, 8, 3), np.uint8)
    images[:] = np.array([200, 150, 100, 50], np.uint8)[:, None, None, None]
    near = Neighbours(np.array([3]), np.array([0.5], np.float32), None)
    return Result(images, near, np.zeros(12, np.float32), Request(4, 0, 1.0, "query", 0, first=10))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.WEBP", "WEBP"), ("a.jpg", "JPEG")])
def test_a_result_is_saved_as_one_sheet_in_the_format_of_the_name(result, tmp_path, name, kind):
    assert result.save(str(tmp_path / "new" / name)) == [tmp_path / "new" / name]
    with Image.open(tmp_path / "new" / name) as opened:
        assert opened.format == kind
    tolerance = 30 if kind == "JPEG" else 0
    assert np.abs(read(tmp_path / "new" / name).astype(int) - result.sheet()).max() <= tolerance


def test_a_single_image_is_saved_as_it_is(result, tmp_path):
    one = Result(result.images[:1], result.neighbours, result.embedding, result.request)
    one.save(tmp_path / "one.png")
    np.testing.assert_array_equal(read(tmp_path / "one.png"), result.images[0])


def test_a_folder_gets_one_file_for_each_image_named_by_its_number_in_the_seed(result, tmp_path):
    (tmp_path / "there.d").mkdir()
    for target in (tmp_path / "new", tmp_path / "there.d", f"{tmp_path}/v1.2/"):
        saved = result.save(target)
        assert [path.name for path in saved] == ["00010.png", "00011.png", "00012.png", "00013.png"]
        for path, image in zip(saved, result.images, strict=True):
            assert path.parent == Path(target)
            np.testing.assert_array_equal(read(path), image)


def test_a_sheet_is_as_square_as_can_be_or_as_wide_as_is_asked(result):
    assert result.sheet().shape == (18, 18, 3)
    assert result.sheet(columns=4).shape == (8, 38, 3)
    with pytest.raises(RequestError, match=r"^columns: 0, expected at least 1$"):
        result.sheet(columns=0)


def test_the_images_are_at_hand_for_pil(result):
    assert [image.getpixel((0, 0)) for image in result.pil()][:2] == [(200, 200, 200), (150, 150, 150)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.bmp", "a.bmp, expected a name ending in .png, .jpg, .jpeg, .webp"),
        ("file/a.png", "file/a.png cannot be written ("),
        ("file/a", "file/a/00010.png cannot be written ("),
    ],
)
def test_what_cannot_be_saved_is_one_line(result, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(RequestError) as caught:
        result.save(name)
    assert str(caught.value).startswith(f"path: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file(result, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(RequestError, match=r"a\.png cannot be written \(No space left\)"):
        result.save(tmp_path / "a.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]


def test_a_picture_stands_beside_its_images():
    instance, samples = np.full((4, 4, 3), 7, np.uint8), np.full((3, 4, 4, 3), 9, np.uint8)
    sheet = sheets.beside(instance, samples, columns=2)
    assert sheet.shape == (10, 20, 3)
    assert (sheet[:4, :4] == 7).all()
    assert (sheet[:4, 10:14] == 9).all()


def test_a_grid_places_pictures_row_by_row_on_white():
    pictures = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = sheets.grid(pictures, columns=2, gap=1)
    assert sheet.shape == (5, 5, 3)
    assert sheet[:, :, 0].tolist() == [
        [10, 10, 255, 20, 20],
        [10, 10, 255, 20, 20],
        [255, 255, 255, 255, 255],
        [30, 30, 255, 255, 255],
        [30, 30, 255, 255, 255],
    ]
    assert sheets.grid(pictures[:1]).shape == (2, 2, 3)
    assert sheets.grid(pictures, columns=9, gap=0).shape == (2, 6, 3)


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (5, 3, 2), (9, 3, 3), (10, 4, 3)]
)
def test_a_grid_is_as_square_as_it_can_be_with_a_gap_of_two(count, columns, rows):
    sheet = sheets.grid(np.zeros((count, 4, 5, 3), np.uint8))
    assert sheet.shape == (rows * 6 - 2, columns * 7 - 2, 3)
    assert (sheet == 0).all(axis=2).sum() == count * 4 * 5
