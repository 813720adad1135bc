"""Which pictures become the bank of a bundle, and which others retrieval is tested with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_export.errors import ExportError
from icgan_export.source.licences import licence_of_pictures
from icgan_export.source.runs import Run
from icgan_export.source.stored import read_stored
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.console import tell
from icgan_runtime.identity import SQUEEZE
from icgan_runtime.names import Names
from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.labels import check_classes, cluster_labels
from icgan_training.data.neighbours import kmeans_instances
from icgan_training.data.sources import open_source
from icgan_training.errors import DataError

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
INSTANCES_FOLDER = "instances"  # pictures that a run directory may carry in place of its data set


@dataclass(frozen=True, eq=False)
class Instances:
    """Pictures chosen for a bank, in ascending id, and others of the same kind to test retrieval with."""

    ids: NDArray[np.int64]  # [M]
    pictures: NDArray[np.uint8]  # [M, S, S, 3]
    embeddings: NDArray[np.float32]  # [M, D], unit rows
    labels: NDArray[np.int64] | None  # [M]
    class_names: tuple[str, ...] | None  # that the labels are indices into; None: they have no names
    queries: NDArray[np.uint8]  # [Q, S, S, 3]: held out, or mirrored instances where there are no others
    source: str
    licence: str
    names: Names | None = None  # [M], the files they came from, where they came from files
    drawn: bool = False  # the pictures, fewer than instances, are the model's own: there are no others
    of_pictures: NDArray[np.float32] | None = None  # what those were drawn from, if not from the embeddings
    limit: float | None = None  # novelty.outside_below, where it is not that of the instances
    # what they were chosen from, for a prior
    all_embeddings: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    labels_of_all: NDArray[np.int64] | None = None

    @property
    def shown(self) -> NDArray[np.float32]:
        """The embeddings that the pictures belong to."""
        return self.embeddings if self.of_pictures is None else self.of_pictures


def choose_instances(
    run: Run, folder: Path | None, count: int, queries: int, embed: Embed | None = None
) -> Instances:
    """At most `count` instances for the bank: k-means over `folder`, the run's data set, or its pictures.

    `embed` makes embeddings [N, D] of pictures uint8 [N, S, S, 3] where they have none (None: torch).
    """
    if folder is None and run.data_path is not None:
        return _from_prepared(run, run.data_path, count, queries)
    if folder is None and (run.path / INSTANCES_FOLDER).is_dir():
        folder = run.path / INSTANCES_FOLDER
    if folder is None:
        raise ExportError(
            f"{run.path} has neither its data set nor an {INSTANCES_FOLDER}/ folder: "
            "name pictures with --bank FOLDER"
        )
    if folder.suffix == ".npy":
        return _from_stored(run, folder, count, queries)
    if (folder / "dataset.json").exists():
        return _from_prepared(run, folder, count, queries)
    return _from_pictures(run, folder, count, queries, embed or run.embed_instances)


def check_prepared(model: Model, data: PreparedDataset, encoder: str) -> None:
    """Raise ExportError unless the data set was prepared with the model's encoder, at its size.

    encoder: where to find that one, for the message. Raises ConfigError where a label of the data set is
    another class than the model knows by that number.
    """
    if data.meta.encoder.sha256 != model.encoder.sha256:
        raise ExportError(
            f"{data.path} was embedded by encoder {data.meta.encoder.sha256[:12]}, the model takes "
            f"embeddings of {model.encoder.sha256[:12]}: prepare it with {encoder}"
        )
    if data.meta.resolution != model.resolution:
        raise ExportError(
            f"{data.path} holds {data.meta.resolution} px pictures, the model {model.resolution} px"
        )
    if data.meta.crop != model.preprocessing.crop:
        fix = "with" if model.preprocessing.crop == SQUEEZE else "without"
        raise ExportError(
            f"{data.path} has pictures made square by {data.meta.crop}, the model was trained on"
            f" {model.preprocessing.crop}: prepare it again {fix} --squeeze"
        )
    check_classes(data, model.class_names)


def _from_prepared(run: Run, path: Path, count: int, queries: int) -> Instances:
    data = PreparedDataset.open(path)
    check_prepared(run.model, data, f"the encoder of {run.path}")
    data.verify()
    chosen = _choose(data.embeddings, count)
    others = np.setdiff1d(np.arange(data.meta.count), chosen)
    held_out = np.sort(np.random.default_rng(0).permutation(others)[:queries])
    pictures = np.ascontiguousarray(data.images[chosen])
    embeddings = np.ascontiguousarray(data.embeddings[chosen])
    labels, names = _clusters(run, embeddings)
    every = cluster_labels(data.embeddings, run.path, run.model.classes) if run.clusters else None
    if labels is None and data.labels is not None and data.meta.class_names is not None:
        every = np.asarray(data.labels)
        labels, names = np.ascontiguousarray(every[chosen]), tuple(data.meta.class_names)
    return Instances(
        all_embeddings=data.embeddings,
        labels_of_all=every,
        ids=chosen,
        pictures=pictures,
        embeddings=embeddings,
        labels=labels,
        class_names=names,
        queries=np.ascontiguousarray(data.images[held_out])
        if len(held_out)
        else _mirrored(pictures, queries),
        source=data.meta.source or data.meta.name,
        licence=data.meta.licence,
        names=None if data.names is None else Names.of(data.names.pick(chosen)),
    )


def _from_stored(run: Run, path: Path, count: int, queries: int) -> Instances:
    """The published system's stored instances, which come without pictures.

    What retrieval and precisions are tested with is drawn by the model from some of them.
    """
    embeddings, labels = read_stored(path, run.model.embedding_dim)
    chosen = _choose(embeddings, count)
    every, every_label = embeddings, labels
    embeddings = np.ascontiguousarray(embeddings[chosen])
    labels = None if labels is None else labels[chosen]
    if run.model.classes and (labels is None or labels.max() >= run.model.classes):
        raise ExportError(f"--bank {path}: no labels in 0..{run.model.classes - 1}, which the model takes")
    rows = np.linspace(0, len(embeddings) - 1, min(queries, len(embeddings))).astype(np.int64)
    pictures = run.draw(embeddings[rows], labels[rows] if run.model.classes and labels is not None else None)
    return Instances(
        all_embeddings=every,
        labels_of_all=every_label,
        ids=chosen,
        pictures=pictures,
        embeddings=embeddings,
        labels=labels,
        class_names=run.model.class_names,
        queries=_mirrored(pictures, queries),
        source=path.name,
        licence=run.model.licence.weights,
        drawn=True,
    )


def _from_pictures(run: Run, path: Path, count: int, queries: int, embed: Embed) -> Instances:
    """Whatever `icgan-train prepare` reads. Pictures that cannot be read are left out, and said to be."""
    found = replace(open_source(path), crop=run.model.preprocessing.crop)
    for remark in found.remarks:
        tell(remark)
    kept, stack = [], []
    for row in range(len(found)):
        try:
            stack.append(found.read(row, run.model.preprocessing.size))
            kept.append(row)
        except DataError as error:
            tell(f"left out of the bank: {error}")
    if not kept:
        raise ExportError(f"--bank {path}: none of its {len(found)} pictures can be read")
    pictures = np.stack(stack)
    embeddings = embed(pictures)
    chosen = _choose(embeddings, count)
    every, names = _clusters(run, embeddings)
    if every is None and found.labels is not None and found.class_names is not None:
        every, names = _as_trained(run.model, path, found.labels[kept], found.class_names)
    others = np.setdiff1d(np.arange(len(pictures)), chosen)[:queries]
    return Instances(
        all_embeddings=embeddings,
        labels_of_all=every,
        ids=chosen,
        pictures=pictures[chosen],
        embeddings=embeddings[chosen],
        labels=None if every is None else every[chosen],
        class_names=names,
        queries=pictures[others] if len(others) else _mirrored(pictures[chosen], queries),
        source=found.note.source or found.note.name,
        licence=licence_of_pictures(found.note, path),
        names=found.names(np.array(kept)[chosen]),
    )


Labels = tuple[NDArray[np.int64] | None, tuple[str, ...] | None]  # [M], and the names they are indices into


def _clusters(run: Run, embeddings: NDArray[np.float32]) -> Labels:
    """The clusters of instances [M, D] where those are the model's classes."""
    if not run.clusters:
        return None, None
    return cluster_labels(embeddings, run.path, run.model.classes), None


def _as_trained(model: Model, path: Path, labels: NDArray[np.int64], names: Sequence[str]) -> Labels:
    """Labels of classes `names` as the model knows the classes of those names, and the names.

    Numbers without names, as the published system's files have them, are the model's own numbers.
    """
    if list(names) == [str(number) for number in range(len(names))]:
        own = (model.class_names or ())[: len(names)]
        names = [*own, *names[len(own) :]]
    known = list(model.class_names or names)
    if model.classes and (
        unknown := [name for name in names if name not in known or len(known) > model.classes]
    ):
        raise ExportError(f"--bank {path}: the model has no class {unknown[0]!r}; rename it")
    number = np.array([known.index(name) for name in names], np.int64)
    # the name of a folder may hold what no manifest does
    return number[labels], tuple(name if name.isprintable() else ascii(name) for name in known)


def _choose(embeddings: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    if count < 1:
        raise ExportError(f"--instances is {count}, it must be at least 1")
    if count >= len(embeddings):
        return np.arange(len(embeddings))
    return kmeans_instances(np.ascontiguousarray(embeddings), count)


def _mirrored(pictures: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pictures[:count, :, ::-1])
