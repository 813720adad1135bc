"""Fixtures shared by the training tests."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from icgan_training.data.dataset import PreparedDataset
from icgan_training.networks.checkpoint import save_weights
from icgan_training.networks.encoder import random_encoder, save_encoder
from icgan_training.networks.generator import Generator
from icgan_training.score.subject import Subject, instance_pool
from tests.training.pictures import PHOTO, TINY_ENCODER
from tests.training.subjects import CPU, FEW, TINY

MakePrepared = Callable[..., Path]


@pytest.fixture
def make_prepared(tmp_path: Path) -> MakePrepared:
    """Writes a prepared data set of random pictures and embeddings, whose neighbours are the true ones."""

    def make(
        name: str = "data",
        *,
        count: int = 40,
        resolution: int = 32,
        embedding_dim: int = 16,
        neighbours: int = 3,
        labels: list[int] | None = None,
        class_count: int = 4,
        encoder: str = "a",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(0)
        np.save(
            folder / "images.npy", rng.integers(0, 256, (count, resolution, resolution, 3), dtype=np.uint8)
        )
        for array in ("embeddings", "embeddings_flipped"):
            rows = rng.standard_normal((count, embedding_dim)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            np.save(folder / f"{array}.npy", rows)
            if array == "embeddings":
                scores = rows @ rows.T
                np.fill_diagonal(scores, -2)
        np.save(folder / "neighbours.npy", np.argsort(-scores)[:, :neighbours].astype(np.int32))
        np.save(folder / "radii.npy", np.ones(count, np.float32))
        if labels is not None:
            np.save(folder / "labels.npy", np.array(labels, np.int64))
        (folder / "encoder.safetensors").write_bytes(encoder.encode())
        meta = {
            "schema_version": 1,
            "name": name,
            "count": count,
            "resolution": resolution,
            "embedding_dim": embedding_dim,
            "neighbours": neighbours,
            "class_names": None if labels is None else [f"class {i}" for i in range(class_count)],
            "source": "random numbers",
            "licence": "CC0-1.0",
            "encoder": {
                "name": "random",
                "sha256": encoder * 64,
                "input_size": 32,
                "embedding_dim": embedding_dim,
            },
        }
        (folder / "dataset.json").write_text(json.dumps(meta))
        return folder

    return make


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """The committed photo, cropped so that it is wider than tall and has no symmetry."""
    with Image.open(PHOTO) as image:
        return image.crop((0, 20, 348, 280))


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory) -> Path:
    """An untrained encoder in our file format."""
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_encoder(random_encoder(TINY_ENCODER), path)
    return path


@pytest.fixture
def broken_encoder_file(tmp_path) -> Path:
    """An encoder whose weights hold a NaN."""
    encoder = random_encoder(TINY_ENCODER)
    encoder.backbone.get_parameter("head.conv.weight").data.fill_(float("nan"))
    path = tmp_path / "broken.safetensors"
    save_encoder(encoder, path)
    return path


@pytest.fixture
def subject(make_prepared):
    torch.manual_seed(0)
    data = PreparedDataset.open(make_prepared(count=60, resolution=TINY.resolution))
    return Subject(Generator(TINY).eval(), data, None, instance_pool(data, FEW), CPU)


@pytest.fixture
def labelled(make_prepared):
    """A class- and instance-conditioned model whose classes have 40, 17 and 3 pictures; class 3 has none."""
    torch.manual_seed(0)
    labels = [0] * 40 + [1] * 17 + [2] * 3
    data = PreparedDataset.open(
        make_prepared("labelled", count=60, resolution=TINY.resolution, labels=labels)
    )
    generator = Generator(dataclasses.replace(TINY, class_count=4)).eval()
    return Subject(generator, data, data.labels, instance_pool(data, FEW), CPU)


@pytest.fixture
def four_corners(labelled, tmp_path):
    """Sixty pictures in four colours, fifteen each; label and embedding are those of the colour."""
    corners = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]])
    labels = np.arange(60) % 4
    embeddings = np.zeros((60, 16), np.float32)
    embeddings[:, :3] = corners[labels] / 255 - 0.5
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    same = labels[:, None] == labels
    np.fill_diagonal(same, False)
    neighbours = np.stack([np.flatnonzero(row)[:10] for row in same]).astype(np.int32)
    meta = dataclasses.replace(labelled.data.meta, neighbours=10)
    data = dataclasses.replace(
        labelled.data, labels=labels, embeddings=embeddings, neighbours=neighbours, meta=meta
    )
    return dataclasses.replace(labelled, data=data, labels=labels, pool=np.arange(60))


@pytest.fixture
def run_dir(subject, tmp_path):
    """A run directory of the untrained generator."""
    folder = tmp_path / "run"
    save_weights(subject.generator, folder / "generator.safetensors")
    config = {"data": {"path": str(subject.data.path)}, "encoder": {"sha256": "a" * 64}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
