"""The sample sheets of the paper's figures: one row per instance, the real picture left, samples right."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from icgan_runtime.files import atomic_file

GAP = 4
"""White pixels between the instance and its samples."""


def sample_grid(
    instances: npt.NDArray[np.uint8],
    samples: npt.NDArray[np.uint8],
    above: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """Instances [M, R, R, 3] and their samples [M, C, R, R, 3] as one picture [M·R, R + GAP + C·R, 3].

    above: pictures [C, R, R, 3] that stand over the columns, a gap between; the picture is R + GAP taller.
    """
    rows, _, size = samples.shape[:3]
    left = instances.reshape(rows * size, size, 3)
    gap = np.full((rows * size, GAP, 3), 255, dtype=np.uint8)
    sheet = np.concatenate([left, gap, tiled(samples)], axis=1)
    if above is None:
        return sheet
    top = np.full((size + GAP, sheet.shape[1], 3), 255, dtype=np.uint8)
    top[:size, size + GAP :] = tiled(above[None])
    return np.concatenate([top, sheet], axis=0)


def tiled(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pictures [M, C, R, R, 3] side by side as one [M·R, C·R, 3]."""
    rows, columns, size = pictures.shape[:3]
    return pictures.transpose(0, 2, 1, 3, 4).reshape(rows * size, columns * size, 3)


def write_grid(path: Path, grid: npt.NDArray[np.uint8]) -> None:
    """Write what `sample_grid` makes as a PNG, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        Image.fromarray(grid).save(partial, format="PNG")
