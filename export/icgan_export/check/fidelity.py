"""What a lower precision does to the FID: every generator of a bundle against the same real pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from icgan_export.check.verify import entries_of, exact_session, in_batches
from icgan_export.errors import ExportError
from icgan_export.lower.bounds import FID_CHANGE
from icgan_export.lower.compare import Comparison, compared
from icgan_export.source.instances import check_prepared
from icgan_export.source.runs import classes_are_clusters
from icgan_runtime import latents
from icgan_runtime.bundle.opened import Bundle
from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.fetch import find_weights
from icgan_training.score.feature_networks import inception_network
from icgan_training.score.features import real_features
from icgan_training.score.metrics import frechet_distance


def fid_of_each(
    bundle: Bundle, data: PreparedDataset, samples: int, step: Callable[[str], None]
) -> dict[str, float]:
    """FID of `samples` pictures by precision, from the same untruncated noise and the data set's instances.

    Raises ExportError for a data set of another encoder or size, or without the labels that the model takes
    (of clusters no data set has them), ConfigError for one whose labels are other classes.
    """
    model = bundle.manifest.model
    check_prepared(model, data, "the encoder of the run that the bundle is from")
    rows = np.arange(samples) % data.meta.count
    feeds: dict[str, NDArray[Any]] = {
        "noise": latents.noise(0, np.arange(samples), float("inf"), model.dim_z),
        "embedding": np.asarray(data.embeddings)[rows],
    }
    if model.classes:
        if classes_are_clusters(model, bundle.manifest.provenance):
            raise ExportError(
                "--fid: the generator takes clusters of its run, which a bundle does not hold: "
                "score the run with `icgan-train evaluate`"
            )
        if data.labels is None:
            raise ExportError("--fid: the generator takes classes, the data set has no labels")
        feeds["label"] = np.asarray(data.labels)[rows].astype(np.int64)
    inception = inception_network(find_weights("inception"), torch.device("cpu"))
    real = real_features(data, inception, data.meta.count)
    scores = {}
    for entry in entries_of(bundle, "generator"):
        step(f"FID of {samples} pictures by {entry.file}")
        with exact_session(bundle, entry) as session:
            scores[entry.precision] = frechet_distance(real, inception(in_batches(session, feeds)["image"]))
    return scores


def compare_fid(scores: dict[str, float]) -> list[Comparison]:
    """Each score, and its distance from float32's against the bound."""
    return [compared("generator", precision, "FID", score) for precision, score in scores.items()] + [
        compared("generator", precision, FID_CHANGE, abs(score - scores["fp32"]))
        for precision, score in scores.items()
        if precision != "fp32"
    ]
