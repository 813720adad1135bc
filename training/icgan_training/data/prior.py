"""A small model of a data set's embeddings, from which instances are drawn instead of stored.

A mixture of normal distributions: k-means groups of pictures, a mean for each, and principal components of
what is left that all groups share. No mean is of fewer than `least` pictures, for a group of one *is* that
picture; groups that come out smaller are given to their neighbours.
"""

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.prior import MAX_CENTRES, Prior
from icgan_training.data.dataset import chunks, read_rows
from icgan_training.data.neighbours import ROWS_PER_CALL, kmeans_centroids, nearest_centroids
from icgan_training.errors import DataError

LEAST = 5
AXES = 128
"""They hold some 80 % of what the means of 64 groups leave of the demo's pictures."""
SHRINKAGE = 10
"""Pictures whose weight the spread of all groups has in that of one."""


def fit_prior(
    embeddings: NDArray[np.float32],
    centres: int,
    labels: NDArray[np.int64] | None = None,
    classes: int = 0,
    *,
    least: int = LEAST,
    axes: int = AXES,
    seed: int = 0,
) -> Prior:
    """A prior of at most `centres` groups of unit rows `embeddings` [N, D]. Raises DataError.

    labels: int64 [N], in 0 .. classes - 1, of a model that takes them. Fewer centres come out where groups
    would be of fewer than `least` pictures, and fewer axes than asked for where there are few pictures.
    """
    count = len(embeddings)
    if not 1 <= centres <= MAX_CENTRES:
        raise DataError(f"a prior of {centres} centres: choose 1..{MAX_CENTRES}")
    if count < 2 * least:
        raise DataError(
            f"{count} pictures are too few for a prior of groups of {least} or more: "
            f"it takes at least {2 * least}"
        )
    if centres * least > count:
        raise DataError(
            f"a prior of {centres} centres of {least} pictures or more takes {centres * least} pictures and "
            f"there are {count}: ask for {count // least} centres or fewer"
        )
    group = _groups(embeddings, centres, least, seed)
    counts = np.bincount(group).astype(np.int64)
    means = _sums(embeddings, group, len(counts)) / counts[:, None]
    # each axis is of as many pictures as a centre is: as many axes as pictures would be the pictures
    width = max(1, min(axes, count // least, embeddings.shape[1]))
    directions = _axes(embeddings, group, means, width)
    return Prior(
        means.astype(np.float32),
        directions,
        _scales(embeddings, group, means, directions, counts),
        counts,
        None if labels is None else _histograms(labels, group, len(counts), classes),
    )


def _groups(embeddings: NDArray[np.float32], centres: int, least: int, seed: int) -> NDArray[np.int64]:
    """The group [N] of each row, none of fewer than `least`: the smaller half of what is too small goes."""
    centroids = kmeans_centroids(embeddings, centres, seed)
    while True:
        group = nearest_centroids(embeddings, centroids)
        counts = np.bincount(group, minlength=len(centroids))
        small = np.flatnonzero(counts < least)
        if not len(small):
            return group
        gone = small[np.argsort(counts[small], kind="stable")][: (len(small) + 1) // 2]
        centroids = np.delete(centroids, gone, axis=0)


def _sums(embeddings: NDArray[np.float32], group: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
    sums = np.zeros((groups, embeddings.shape[1]))
    for rows in chunks(len(group), ROWS_PER_CALL):
        np.add.at(sums, group[rows], read_rows(embeddings, rows))
    return sums


def _axes(
    embeddings: NDArray[np.float32], group: NDArray[np.int64], means: NDArray[np.float64], width: int
) -> NDArray[np.float32]:
    """The `width` principal components [A, D] of what the group means leave."""
    scatter = np.zeros((embeddings.shape[1],) * 2)
    for rows in chunks(len(group), ROWS_PER_CALL):
        left = read_rows(embeddings, rows) - means[group[rows]]
        scatter += left.T @ left
    found = np.linalg.eigh(scatter)[1][:, ::-1][:, :width].T
    # of the two directions of an axis the one whose largest number is positive: the same on every machine
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    return np.ascontiguousarray(found * np.sign(largest), np.float32)


def _scales(
    embeddings: NDArray[np.float32],
    group: NDArray[np.int64],
    means: NDArray[np.float64],
    axes: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Standard deviations [K, A] along the axes, those of small groups drawn towards those of all."""
    squares = np.zeros((len(counts), len(axes)))
    for rows in chunks(len(group), ROWS_PER_CALL):
        along = (read_rows(embeddings, rows) - means[group[rows]]) @ axes.T
        np.add.at(squares, group[rows], along**2)
    common = squares.sum(axis=0) / max(1, len(group) - len(counts))
    own = (squares + SHRINKAGE * common) / (counts[:, None] - 1 + SHRINKAGE)
    scales: NDArray[np.float32] = np.sqrt(own).astype(np.float32)
    return scales


def _histograms(
    labels: NDArray[np.int64], group: NDArray[np.int64], groups: int, classes: int
) -> NDArray[np.int64]:
    """How many pictures of each group have each label, [K, classes]."""
    found = np.zeros((groups, classes), np.int64)
    np.add.at(found, (group, labels), 1)
    return found
