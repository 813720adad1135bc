"""The label that a model is given for each picture: none, a constant, that of the data set, or a cluster.

Clusters are the coarse hard partition that IC-GAN is compared with (section 4.2). Their centroids are
computed once, stay in the run directory as `centroids.npy`, and every process, resumed run and evaluation
reads them there: k-means need not repeat itself to the last bit on another machine.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.files import atomic_file, sha256_of_file
from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.neighbours import kmeans_centroids, nearest_centroids
from icgan_training.distributed import ALONE, Processes, wait
from icgan_training.errors import ConfigError, DataError
from icgan_training.integrity import inside
from icgan_training.networks.config import Conditions, LabelSource

CENTROIDS = "centroids.npy"
CENTROIDS_HASH = "centroids.sha256"  # written first; a run from before has none


def training_labels(
    model: Conditions,
    data: PreparedDataset,
    run_dir: Path,
    *,
    source: LabelSource = "dataset",
    seed: int = 0,
    begun: bool = False,
    processes: Processes = ALONE,
) -> NDArray[np.int64] | None:
    """The labels that the model of `run_dir` is given for the pictures of `data`: int64 [N], None for none.

    With `source` "clusters" the run directory gets its centroids here if it has none yet. begun: the model
    has learnt what its clusters are, and others of the same number would mean something else.
    Raises DataError for labels that are missing or that the model has no class for, and for centroids that
    do not fit or that a run which has begun has lost.
    """
    if model.class_count is None:
        return None
    count = len(data.images)
    if model.class_count == 1:
        return np.zeros(count, dtype=np.int64)
    if source == "clusters":
        path = run_dir / CENTROIDS
        if not begun and processes.first and not path.exists():
            _write(path, kmeans_centroids(data.embeddings, model.class_count, seed))
        wait(processes)
        return cluster_labels(data.embeddings, run_dir, model.class_count)
    if data.labels is None:
        raise DataError(f"the model takes labels but {data.path} has none: prepare it with labels")
    labels = np.asarray(data.labels)
    if labels.min() < 0 or labels.max() >= model.class_count:
        odd = int(np.flatnonzero((labels < 0) | (labels >= model.class_count))[0])
        raise DataError(
            f"label {labels[odd]} of picture {odd} in {data.path} is outside [0, {model.class_count})"
        )
    return labels


def cluster_labels(embeddings: NDArray[np.float32], run_dir: Path, clusters: int) -> NDArray[np.int64]:
    """The cluster of the run in `run_dir` to which each of `embeddings` [N, D] belongs: int64 [N].

    Raises DataError where the centroids are missing or do not fit.
    """
    path = run_dir / CENTROIDS
    if not path.exists():
        raise DataError(f"{path} is missing: without it the clusters of this run are lost")
    return nearest_centroids(embeddings, _read(path, (clusters, embeddings.shape[1])))


def check_classes(data: PreparedDataset, trained: Sequence[str] | None) -> None:
    """Raise `ConfigError` where a label of the data set is another class than the one it was in training.

    trained: the names of the classes that the model takes; None where there are none (a model without labels,
    clusters, converted runs).
    """
    if trained is None:
        return
    for label, (there, here) in enumerate(zip(trained, data.meta.class_names or [], strict=False)):
        if there != here:
            raise ConfigError(
                f"label {label} is {here!r} in {data.path} and was {there!r} in training: prepare the"
                " pictures with the classes of the run"
            )


def _write(path: Path, centroids: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        with partial.open("wb") as file:
            np.save(file, centroids)
        path.with_name(CENTROIDS_HASH).write_text(sha256_of_file(partial) + "\n")


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Float32 centroids of this shape, all finite; DataError otherwise."""
    digest = path.with_name(CENTROIDS_HASH)
    try:
        if digest.exists() and digest.read_text().strip() != sha256_of_file(inside(path.parent, path.name)):
            raise ValueError(f"its SHA-256 is not that in {CENTROIDS_HASH}")
        # mapped: a header that asks for more than the file holds is refused before anything is allocated
        centroids: NDArray[np.float32] = np.array(np.lib.format.open_memmap(path, mode="r"))
    except Exception as error:  # numpy evaluates the header: SyntaxError, TokenError and more come out of it
        raise DataError(
            f"{path} is damaged ({error}): without it the clusters of this run are lost"
        ) from error
    if centroids.shape != shape or centroids.dtype != np.float32 or not np.isfinite(centroids).all():
        raise DataError(
            f"{path} holds {centroids.dtype} {list(centroids.shape)}, expected finite float32 {list(shape)}"
        )
    return centroids
