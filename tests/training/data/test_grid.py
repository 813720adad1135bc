"""The sample sheet."""

import numpy as np
from PIL import Image

from icgan_training.data.grid import GAP, sample_grid, write_grid


def test_each_row_is_an_instance_then_its_own_samples_in_order():
    instances = np.arange(2, dtype=np.uint8)[:, None, None, None] + np.zeros((2, 4, 4, 3), dtype=np.uint8)
    samples = np.arange(10, 16, dtype=np.uint8).reshape(2, 3, 1, 1, 1) + np.zeros((4, 4, 3), dtype=np.uint8)
    sheet = sample_grid(instances, samples)
    assert sheet.shape == (8, 4 + GAP + 12, 3)
    assert sheet[::4, 0, 0].tolist() == [0, 1]
    assert sheet[::4, 4 + GAP :: 4, 0].tolist() == [[10, 11, 12], [13, 14, 15]]
    assert (sheet[:, 4 : 4 + GAP] == 255).all()


def test_pictures_above_stand_over_their_columns():
    samples = np.zeros((2, 3, 4, 4, 3), dtype=np.uint8)
    above = np.array([7, 8, 9], dtype=np.uint8)[:, None, None, None] + np.zeros((4, 4, 3), dtype=np.uint8)
    plain = sample_grid(samples[:, 0], samples)
    sheet = sample_grid(samples[:, 0], samples, above)
    assert np.array_equal(sheet[4 + GAP :], plain)
    assert sheet[0, 4 + GAP :: 4, 0].tolist() == [7, 8, 9]
    assert (sheet[:4, : 4 + GAP] == 255).all()
    assert (sheet[4 : 4 + GAP] == 255).all()


def test_the_file_is_a_png_of_the_sheet(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3), dtype=np.uint8)
    sheet = sample_grid(pictures[:, 0], pictures)
    write_grid(tmp_path / "samples" / "a.png", sheet)
    with Image.open(tmp_path / "samples" / "a.png") as image:
        assert np.array_equal(np.asarray(image), sheet)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["a.png"]
