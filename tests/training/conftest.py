"""Fixtures shared by the training tests."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_training.encoder import random_encoder, save_encoder
from tests.training.pictures import PHOTO, TINY_ENCODER

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
