"""The sheets of samples beside a report."""

import dataclasses

import numpy as np
import torch

from icgan_training.networks.generator import Generator
from icgan_training.score.copies import Pair
from icgan_training.score.sheets import copies_grid, example_grid, label_grid
from icgan_training.score.subject import draw
from tests.training.subjects import FEW, TINY, of_label, painter


def test_the_grid_shows_instances_left_and_samples_right(subject):
    grid = example_grid(subject, FEW)
    size = TINY.resolution
    assert grid.shape[0] == 8 * size
    rows = [grid[row * size : (row + 1) * size, :size] for row in range(8)]
    assert all((subject.data.images == row).all(axis=(1, 2, 3)).any() for row in rows)


def test_the_sheet_of_labels_has_instances_left_classes_on_top_and_the_label_of_each_column(four_corners):
    subject = dataclasses.replace(four_corners, generator=painter(of_label))
    sheet, samples = label_grid(subject, FEW), example_grid(subject, FEW)
    assert sheet is not None
    size = TINY.resolution
    first = size + 4
    assert sheet.shape == (first + 8 * size, first + 4 * size, 3)
    assert np.array_equal(sheet[first:, :size], samples[:, :size])
    for column in range(4):
        part = slice(first + column * size, first + (column + 1) * size)
        assert np.array_equal(sheet[:size, part], subject.data.images[column])
        expected = of_label(None, torch.tensor([column])).numpy()[0]
        assert (sheet[first:, part] == expected).all()


def test_a_row_of_the_sheet_of_labels_changes_nothing_but_the_label(labelled):
    same_label = dataclasses.replace(labelled, labels=np.where(np.arange(60) < 40, 0, 1))
    model = same_label.generator
    with torch.no_grad():
        model.shared.weight[1] = model.shared.weight[0]
    sheet, size = label_grid(same_label, FEW), TINY.resolution
    assert sheet is not None
    first = size + 4
    left, right = (sheet[first:, first + part * size : first + (part + 1) * size] for part in (0, 1))
    assert np.array_equal(left, right)


def test_models_without_label_or_without_instance_have_no_sheet_of_labels(subject, labelled):
    assert label_grid(subject, FEW) is None
    baseline = Generator(dataclasses.replace(TINY, class_count=4, embedding_dim=None)).eval()
    assert label_grid(dataclasses.replace(labelled, generator=baseline), FEW) is None


def test_the_sheet_of_copies_has_each_sample_over_the_picture_it_is_near_to(subject):
    closest = [Pair(sample=40 - row, picture=row, ratio=row / 20) for row in range(16)]
    sheet, size = copies_grid(subject, subject.data, FEW, closest), TINY.resolution
    assert sheet.shape == (4 * size, 8 * size, 3)
    samples = subject.samples(draw(subject, FEW))
    for number, pair in enumerate(closest):
        top, left = number // 8 * 2 * size, number % 8 * size
        shown = sheet[top : top + 2 * size, left : left + size].reshape(2, size, size, 3)
        assert abs(shown[0].astype(int) - samples[pair.sample]).max() <= 1
        assert np.array_equal(shown[1], subject.data.images[pair.picture])


def test_a_sheet_of_few_copies_is_as_wide_as_they_are(subject):
    sheet = copies_grid(subject, subject.data, FEW, [Pair(0, 1, 0.5), Pair(3, 2, 0.7)])
    assert sheet.shape == (2 * TINY.resolution, 2 * TINY.resolution, 3)
