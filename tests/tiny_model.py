"""Tiny models with random weights, and run directories around them: small enough to export in a test."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from icgan_training.networks.checkpoint import save_weights
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    EncoderConfig,
    random_encoder,
    save_encoder,
)
from icgan_training.networks.generator import Generator


def lively_generator(config: ModelConfig, seed: int = 0) -> Generator:
    """Random weights; statistics, gains, biases and attention gate are not trivial, so nothing cancels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(config).eval()
        for name, tensor in [*generator.named_parameters(), *generator.named_buffers()]:
            if name.endswith("stored_var"):
                tensor.data.uniform_(0.5, 2)
            elif name.endswith("gamma"):
                tensor.data.fill_(0.7)
            elif name.endswith(("stored_mean", ".bias", ".gain")):
                tensor.data.normal_(0, 0.3)
    return generator


def write_pictures(folder: Path, count: int, seed: int = 0) -> None:
    """Smooth random pictures in two class sub-folders."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        place = folder / ("cold" if index % 2 else "warm") / f"{index:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC).save(place)


def write_run(folder: Path, config: ModelConfig, pictures: int = 12) -> Path:
    """A run directory as `icgan-train fit` leaves it, with its instances inside."""
    folder.mkdir(parents=True)
    save_weights(lively_generator(config), folder / "generator.safetensors")
    encoder = random_encoder(
        EncoderConfig("efficientnet-lite0", 1280, 64, IMAGENET_MEAN, IMAGENET_STD, licence="CC0-1.0")
    )
    save_encoder(encoder, folder / "encoder.safetensors")
    described = {"name": "tiny", "model": config.to_dict(), "licence": {"weights": "CC0-1.0"}}
    (folder / "config.json").write_text(json.dumps(described))
    write_pictures(folder / "instances", pictures)
    return folder


def tiny_config(**changes: Any) -> ModelConfig:
    """A model of 32 px with attention that exports in seconds."""
    shape = ModelConfig(32, 8, (16,), embedding_dim=1280, shared_dim_feat=32)
    return dataclasses.replace(shape, **changes)
