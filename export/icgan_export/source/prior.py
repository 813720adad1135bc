"""What a bundle draws instances from, and a bank that holds none: group means stand in for pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from icgan_export.errors import ExportError
from icgan_export.source.instances import Instances
from icgan_export.source.runs import Run
from icgan_runtime.names import Names
from icgan_runtime.prior import Prior
from icgan_runtime.search.novelty import QUANTILE
from icgan_training.data.dataset import chunks, read_rows
from icgan_training.data.prior import fit_prior

DRAWN = 256
"""Pictures that stand for real ones where none may be stored: to test with, and to measure activations."""


def make_prior(run: Run, instances: Instances, centres: int) -> Prior:
    """A prior of all that the instances were chosen from. Raises ExportError, DataError.

    Labels are those of the pictures, where the model takes any.
    """
    classes, labels = run.model.classes, instances.labels_of_all
    if classes == 1:  # a constant
        labels = np.zeros(len(instances.all_embeddings), np.int64)
    elif classes and (labels is None or labels.max() >= classes):
        raise ExportError(
            f"--prior: the model takes labels in 0..{classes - 1} and {instances.source} has not one for "
            "each picture: prepare it with labels"
        )
    return fit_prior(instances.all_embeddings, centres, labels if classes else None, classes)


def without_pictures(run: Run, instances: Instances, prior: Prior, queries: int) -> Instances:
    """The means of a prior in place of instances, and pictures that the model drew in place of theirs.

    Nothing of them is of a single picture: no embedding, thumbnail, name, id, or pinned sample.
    """
    means = prior.centres / np.linalg.norm(prior.centres, axis=1, keepdims=True)
    drawn, labels = prior.instances(0, np.arange(max(queries, DRAWN)))
    pictures = run.draw(drawn, labels)
    own = None if prior.labels is None else prior.labels.argmax(axis=1)
    return replace(
        instances,
        ids=np.arange(len(prior)),
        pictures=pictures,
        of_pictures=drawn,
        embeddings=means.astype(np.float32),
        labels=own,
        class_names=None if own is None else instances.class_names,
        queries=np.ascontiguousarray(pictures[:queries, :, ::-1]),
        source=f"means of {prior.least} or more pictures each, no picture itself, of {instances.source}",
        names=Names.of(f"mean of {count} pictures" for count in prior.counts.tolist()),
        drawn=True,
        limit=_nearest_quantile(instances.all_embeddings, means.astype(np.float32)),
    )


def _nearest_quantile(rows: NDArray[np.float32], means: NDArray[np.float32]) -> float:
    """The score that 99 % of the pictures reach with a mean: below it one is unlike all of them."""
    scores = [(read_rows(rows, some) @ means.T).max(axis=1) for some in chunks(len(rows))]
    return float(np.quantile(np.concatenate(scores), QUANTILE))
