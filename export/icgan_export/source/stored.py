"""The stored instances of the published system: a pickled dictionary in a .npy file, read as inert data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_export.errors import ExportError
from icgan_training.inert_pickle import read_inert_npy


def read_stored(path: Path, width: int) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Unit embeddings [M, width] and labels [M], or None where the file has none that are class numbers.

    Raises WeightsError for a file that is damaged or could run code, ExportError for one of another kind.
    """
    found = read_inert_npy(path)
    features = found.get("instance_features") if isinstance(found, dict) else None
    if not isinstance(features, np.ndarray) or features.dtype.kind != "f" or features.ndim != 2:
        raise ExportError(f"--bank {path}: no `instance_features`, one row of numbers for each instance")
    if features.shape[1] != width or not len(features):
        raise ExportError(
            f"--bank {path}: {features.shape[0]} instances of {features.shape[1]} numbers, not of {width}"
        )
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ExportError(f"--bank {path}: an instance of length 0, or of no length")
    return (features / lengths).astype(np.float32), _labels(found.get("labels"), len(features))


def _labels(found: object, count: int) -> NDArray[np.int64] | None:
    try:
        labels = np.asarray(found)
    except ValueError:  # lists of different lengths: several labels a picture
        return None
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or (count and labels.min() < 0):
        return None
    return labels.astype(np.int64)
