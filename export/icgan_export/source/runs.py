"""A run directory as it is exported: networks in eval mode and float32, and what is known about them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from icgan_export.errors import ExportError
from icgan_export.source.licences import licence_of_weights
from icgan_runtime import latents
from icgan_runtime.bundle.manifest import Model, Preprocessing
from icgan_runtime.files import sha256_of_file
from icgan_runtime.identity import EncoderIdentity
from icgan_runtime.verify import to_bytes
from icgan_training.fit.run import crop_of, find_data, open_encoder, read_config
from icgan_training.integrity import inside
from icgan_training.networks.backbones import AnyConfig, AnyGenerator, backbone_of
from icgan_training.networks.checkpoint import load_generator
from icgan_training.networks.encoder import Encoder, fold_batch_norm

BATCH = 8  # pictures that are drawn at a time
PICTURES = 4  # that the encoder takes at a time: those of 8 take a fifth longer
EVALUATION_NAME = "evaluation.json"


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

    @property
    def clusters(self) -> bool:
        """Whether the model's classes are clusters of the embeddings (`label_source=clusters`)."""
        return classes_are_clusters(self.model, self.provenance)

    def embed(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings [N, D] of prepared pictures uint8 [N, S, S, 3], by torch in float32, as published."""
        return _embed(self.encoder, pictures)

    def embed_instances(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same as `icgan-train prepare` makes them: quicker, equal to float rounding."""
        return _embed(fold_batch_norm(copy.deepcopy(self.encoder)), pictures)

    @torch.inference_mode()
    def draw(self, embeddings: NDArray[np.float32], labels: NDArray[np.int64] | None) -> NDArray[np.uint8]:
        """One picture of each embedding [N, D] and label [N], by torch: uint8 [N, R, R, 3]."""
        noise = latents.noise(0, np.arange(len(embeddings)), latents.UNTRUNCATED, self.model.dim_z)
        pictures = []
        for start in range(0, len(embeddings), BATCH):
            rows = slice(start, start + BATCH)
            label = None if labels is None else torch.from_numpy(labels[rows])
            inputs = torch.from_numpy(noise[rows]), torch.from_numpy(embeddings[rows]), label
            pictures.append(to_bytes(self.generator(*inputs).numpy()))
        return np.concatenate(pictures)


@torch.inference_mode()
def _embed(encoder: Encoder, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    batches = [
        encoder(torch.from_numpy(np.ascontiguousarray(pictures[start : start + PICTURES]))).numpy()
        for start in range(0, len(pictures), PICTURES)
    ]
    return np.concatenate(batches)


def read_run(path: Path) -> Run:
    """Open a run directory (`icgan-train fit`, `convert`, or `models/demo`).

    Raises ExportError for a model that takes no instance, TrainingError where its encoder is not to be had.
    """
    config = read_config(path)
    generator = load_generator(path)
    if generator.config.embedding_dim is None:
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
    data = find_data(path, config)
    return Run(
        path,
        generator,
        encoder,
        _model(path, config, generator.config, identity),
        provenance=_provenance(config) | {"backbone": backbone_of(generator.config)},
        metrics=read_evaluation(path),
        data_path=data if data is not None and (data / "dataset.json").exists() else None,
    )


def _provenance(config: dict[str, Any]) -> dict[str, Any]:
    """What a bundle says of its training. Bundles are handed on: folders of this machine stay out of them."""
    kept: dict[str, Any] = {name: config[name] for name in ("train", "data", "provenance") if name in config}
    if isinstance(kept.get("data"), dict):
        kept["data"] = {name: value for name, value in kept["data"].items() if name != "path"}
    return kept


def _model(path: Path, config: dict[str, Any], shape: AnyConfig, encoder: EncoderIdentity) -> Model:
    """What the manifest says of the model: the run's `config.json`, and the networks' own shapes."""
    assert shape.embedding_dim is not None
    names = config.get("class_names")
    classes = shape.class_count if shape.takes_label and shape.class_count is not None else 0
    return Model(
        name=model_name(path, config),
        version=model_version(config),
        resolution=shape.resolution,
        dim_z=shape.dim_z,
        embedding_dim=shape.embedding_dim,
        classes=classes,
        class_names=tuple(names) if names is not None and len(names) == classes else None,
        encoder=encoder,
        preprocessing=Preprocessing(shape.resolution, crop=crop_of(config)),
        licence=licence_of_weights(config),
        truncation="mean-w" if backbone_of(shape) == "stylegan2" else "noise",
    )


def model_name(path: Path, config: dict[str, Any]) -> str:
    """As `config.json` has it, else the folder's."""
    name: str = config.get("name", path.resolve().name)
    return name


def model_version(config: dict[str, Any]) -> str:
    """As `config.json` has it, else "1"."""
    return str(config.get("version", "1"))


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
    same = sha256_of_file(path / "generator.safetensors").startswith(str(weights))
    # rows of a data set mean nothing to who has only the bundle
    return {name: value for name, value in found.items() if name != "closest"} if same else {}


def classes_are_clusters(model: Model, provenance: Mapping[str, Any]) -> bool:
    """Whether the classes of a model are clusters of the embeddings, whatever classes its data set has."""
    train = provenance.get("train")
    return model.classes > 0 and isinstance(train, dict) and train.get("label_source") == "clusters"
