"""Neighbourhoods as a sheet: a picture on the left, those that stand for it in training on the right."""

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import captions
from icgan_training.data.dataset import PreparedDataset

GAP = 8  # white pixels


def neighbourhoods(data: PreparedDataset, rows: int, count: int) -> NDArray[np.uint8]:
    """Some pictures of the set, evenly spread, with `count` of their neighbours and words: [H, W, 3].

    The neighbours are the nearest ones and the last, which says how far a neighbourhood goes.
    """
    k = data.neighbours.shape[1]
    places = [*range(min(count, k) - 1), k - 1]
    strips = []
    for row in np.linspace(0, data.meta.count - 1, min(rows, data.meta.count)).astype(np.int64):
        near = np.asarray(data.neighbours[row, places]).astype(np.int64)
        scores = np.asarray(data.embeddings[near]) @ np.asarray(data.embeddings[row])
        words = [(data.title(int(row)), data.class_of(int(row)))]
        words += [
            (data.title(int(other)), f"{place + 1}. {score:.3f} {data.class_of(int(other))}")
            for other, place, score in zip(near, places, scores, strict=True)
        ]
        cells = captions.below(np.asarray(data.images[[int(row), *near]]), words)
        gap = np.full((cells.shape[1], GAP, 3), 255, np.uint8)
        strips.append(np.concatenate([cells[0], gap, *(_spaced(cell) for cell in cells[1:])], axis=1))
    return np.concatenate(strips, axis=0)


def _spaced(cell: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A cell with a white edge on its right."""
    return np.pad(cell, ((0, 0), (0, GAP // 4), (0, 0)), constant_values=255)
