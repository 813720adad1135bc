"""What is exported: the weights of a run directory and the pictures behind a bank."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from icgan_export.errors import ExportError
from icgan_runtime.bundle.manifest import EncoderIdentity, Licence, Model, Preprocessing
from icgan_runtime.console import tell
from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.labels import check_classes, cluster_labels
from icgan_training.data.neighbours import kmeans_instances
from icgan_training.data.sources import SourceNote, open_source
from icgan_training.errors import DataError
from icgan_training.fit.run import open_encoder, read_config
from icgan_training.integrity import file_sha256, inside
from icgan_training.networks.backbones import AnyGenerator
from icgan_training.networks.checkpoint import load_generator
from icgan_training.networks.encoder import Encoder

ENCODER_BATCH = 32
UNSTATED_LICENCE = "LicenseRef-unstated"
EVALUATION_NAME = "evaluation.json"
INSTANCES_FOLDER = "instances"  # pictures that a run directory may carry in place of its data set


@dataclass(frozen=True, eq=False)
class Run:
    """A run directory: networks in eval mode and float32, and what is known about them."""

    path: Path
    generator: AnyGenerator
    encoder: Encoder
    model: Model
    provenance: dict[str, Any]
    metrics: dict[str, Any]  # of these weights; empty where none were measured
    data_path: Path | None  # the prepared data set, where it still exists


def told_clusters(model: Model, provenance: Mapping[str, Any]) -> bool:
    """Whether the model was told clusters of the embeddings, whatever classes its data set has."""
    train = provenance.get("train")
    return model.classes > 0 and isinstance(train, dict) and train.get("label_source") == "clusters"


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


def read_run(path: Path) -> Run:
    """Open a run directory (`icgan-train fit`, `convert`, or `models/demo`)."""
    config = read_config(path)
    generator = load_generator(path)
    shape = generator.config
    if shape.embedding_dim is None:
        raise ExportError(
            f"{path}: the model takes no instance; a bundle needs one (icgan-export onnx does not)"
        )
    encoder, encoder_sha256 = open_encoder(path, config)
    identity = EncoderIdentity(
        encoder.config.architecture,
        encoder_sha256,
        encoder.config.input_size,
        encoder.config.embedding_dim,
    )
    licence = config.get("licence", {})
    if isinstance(licence, str):
        licence = {"weights": licence}
    names = config.get("class_names")
    classes = shape.class_count if shape.takes_label and shape.class_count is not None else 0
    model = Model(
        name=config.get("name", path.resolve().name),
        version=str(config.get("version", "1")),
        resolution=shape.resolution,
        dim_z=shape.dim_z,
        embedding_dim=shape.embedding_dim,
        classes=classes,
        class_names=tuple(names) if names is not None and len(names) == classes else None,
        encoder=identity,
        preprocessing=Preprocessing(shape.resolution),
        licence=Licence(licence.get("weights", UNSTATED_LICENCE), licence.get("notice", "")),
    )
    data = config.get("data", {}).get("path")
    data_path = Path(data) if data and (Path(data) / "dataset.json").exists() else None
    provenance = {key: value for key, value in config.items() if key in ("train", "data", "provenance")}
    return Run(path, generator, encoder, model, provenance, read_evaluation(path), data_path)


def read_evaluation(path: Path) -> dict[str, Any]:
    """The scores that `icgan-train evaluate` left in a run directory, if they are of its weights."""
    if not (path / EVALUATION_NAME).exists():
        return {}
    try:
        text = inside(path, EVALUATION_NAME).read_bytes()
        found = json.loads(text, parse_constant=lambda name: None)  # a manifest holds no NaN
        weights = found["parameters"].get("generator", "none")  # older ones do not say
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(
            f"{path / EVALUATION_NAME} is damaged ({error}): evaluate again, or delete it"
        ) from None
    same = file_sha256(path / "generator.safetensors").startswith(str(weights))
    # rows of a data set mean nothing to who has only the bundle
    return {name: value for name, value in found.items() if name != "closest"} if same else {}


def choose_instances(run: Run, folder: Path | None, count: int, queries: int) -> Instances:
    """At most `count` instances for the bank: k-means over `folder`, the run's data set, or its pictures."""
    if folder is None and run.data_path is not None:
        return _from_prepared(run, run.data_path, count, queries)
    if folder is None and (run.path / INSTANCES_FOLDER).is_dir():
        folder = run.path / INSTANCES_FOLDER
    if folder is None:
        raise ExportError(
            f"{run.path} has neither its data set nor an {INSTANCES_FOLDER}/ folder: "
            "name pictures with --bank FOLDER"
        )
    if (folder / "dataset.json").exists():
        return _from_prepared(run, folder, count, queries)
    return _from_pictures(run, folder, count, queries)


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
    check_classes(data, model.class_names)


def embed(encoder: Encoder, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeddings [N, D] of prepared pictures [N, S, S, 3], by torch in float32."""
    with torch.inference_mode():
        parts = [
            encoder(torch.from_numpy(np.ascontiguousarray(pictures[start : start + ENCODER_BATCH]))).numpy()
            for start in range(0, len(pictures), ENCODER_BATCH)
        ]
    return np.concatenate(parts)


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
    if labels is None and data.labels is not None and data.meta.class_names is not None:
        labels, names = np.ascontiguousarray(data.labels[chosen]), tuple(data.meta.class_names)
    return Instances(
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
    )


def _from_pictures(run: Run, path: Path, count: int, queries: int) -> Instances:
    """Whatever `icgan-train prepare` reads. Pictures that cannot be read are left out, and said to be."""
    found = open_source(path)
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
    embeddings = embed(run.encoder, pictures)
    chosen = _choose(embeddings, count)
    labels, names = _clusters(run, embeddings[chosen])
    if labels is None and found.labels is not None and found.class_names is not None:
        labels, names = _as_trained(run.model, path, found.labels[kept][chosen], found.class_names)
    others = np.setdiff1d(np.arange(len(pictures)), chosen)[:queries]
    return Instances(
        ids=chosen,
        pictures=pictures[chosen],
        embeddings=embeddings[chosen],
        labels=labels,
        class_names=names,
        queries=pictures[others] if len(others) else _mirrored(pictures[chosen], queries),
        source=found.note.source or found.note.name,
        licence=_licence(found.note, path),
    )


Labels = tuple[NDArray[np.int64] | None, tuple[str, ...] | None]  # [M], and the names they are indices into


def _clusters(run: Run, embeddings: NDArray[np.float32]) -> Labels:
    """What a model of clusters is told about instances [M, D]; nothing of another model."""
    if not told_clusters(run.model, run.provenance):
        return None, None
    return cluster_labels(embeddings, run.path, run.model.classes), None


def _as_trained(model: Model, path: Path, labels: NDArray[np.int64], names: Sequence[str]) -> Labels:
    """Labels of classes `names` as the model knows the classes of those names, and the names."""
    known = list(model.class_names or names)
    if model.classes and (
        unknown := [name for name in names if name not in known or len(known) > model.classes]
    ):
        raise ExportError(f"--bank {path}: the model has no class {unknown[0]!r}; rename it")
    number = np.array([known.index(name) for name in names], np.int64)
    # the name of a folder may hold what no manifest does
    return number[labels], tuple(name if name.isprintable() else ascii(name) for name in known)


def _licence(note: SourceNote, path: Path) -> str:
    """What is noted, or the first line of the licence file in the folder or beside it, in printable text."""
    names = ("LICENSE", "LICENCE", "LICENSE.txt", "LICENSE.md")
    files = [place / name for name in names for place in (path, path.parent)]
    texts = [] if note.licence == SourceNote.licence else [note.licence]
    texts += [file.read_text("utf-8-sig", errors="replace") for file in files if file.is_file()]
    for line in (line for text in texts for line in text.splitlines()):
        words = "".join(c if c.isprintable() else " " for c in line).split()
        if words:
            return " ".join(words)[:200]
    return UNSTATED_LICENCE


def _choose(embeddings: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    if count < 1:
        raise ExportError(f"--instances is {count}, it must be at least 1")
    if count >= len(embeddings):
        return np.arange(len(embeddings))
    return kmeans_instances(np.ascontiguousarray(embeddings), count)


def _mirrored(pictures: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pictures[:count, :, ::-1])
