"""A run directory whose generator carries a key, made of one whose generator does not."""

from __future__ import annotations

import functools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icgan_runtime.files import atomic_directory
from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.fit.mark import BATCH, MarkReport, mark_generator
from icgan_training.fit.run import (
    CONFIG,
    ENCODER,
    SHARED_ENCODER,
    find_data,
    open_encoder,
    read_config,
)
from icgan_training.networks.checkpoint import load_generator, save_weights
from icgan_training.networks.encoder import encoder_bytes
from icgan_training.networks.generator import Generator

MIN_SECRET, MAX_SECRET = 16, 64 << 10
_OF_OTHER_WEIGHTS = (
    "generator.safetensors",
    "discriminator.safetensors",
    "evaluation.json",
    "evaluation.html",
)


def read_secret(path: Path) -> bytes:
    """The secret in a key file, at least 16 bytes. Raises ConfigError, which does not show it."""
    try:
        if path.stat().st_mode & 0o004:
            raise ConfigError(f"--key {path} can be read by every user of this machine: chmod o-r {path}")
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET).strip()
    except OSError as error:
        raise ConfigError(f"--key {path} cannot be read ({error.strerror})") from None
    if len(secret) < MIN_SECRET:
        raise ConfigError(
            f"--key {path} holds {len(secret)} bytes, {MIN_SECRET} are needed: openssl rand -hex 32"
        )
    return secret


def mark_run(run_dir: Path, data_path: Path | None, key: Path, out: Path, psnr: float | None) -> MarkReport:
    """Write `out`, a copy of `run_dir` with the key in its generator. Raises ConfigError."""
    if out.exists():
        raise ConfigError(f"--out {out} exists already: remove it or choose another folder")
    if psnr is not None and not 25 <= psnr <= 60:
        raise ConfigError(f"--psnr is {psnr}, it must lie in 25..60")
    secret = read_secret(key)
    generator, config = load_generator(run_dir), read_config(run_dir)
    if not isinstance(generator, Generator):
        raise ConfigError("only generators of the BigGAN backbone can be marked")
    chosen = data_path or find_data(run_dir, config)
    if chosen is None:
        raise ConfigError(f"{run_dir / CONFIG} names no data set: give one with --data")
    data = PreparedDataset.open(chosen)
    marked, report = mark_generator(
        generator, functools.partial(draw_images, generator, np.asarray(data.embeddings)), secret, psnr
    )
    with atomic_directory(out) as partial:
        shutil.copytree(
            run_dir, partial, ignore=shutil.ignore_patterns(*_OF_OTHER_WEIGHTS), dirs_exist_ok=True
        )
        if not (run_dir / ENCODER).exists():  # it shares one, which need not lie beside the copy
            encoder, _ = open_encoder(run_dir, config)
            (partial / ENCODER).write_bytes(encoder_bytes(encoder))
            (partial / SHARED_ENCODER).unlink(missing_ok=True)
        save_weights(marked, partial / "generator.safetensors", half=True)
        described = config | {"model": marked.config.to_dict(), "marked": {"psnr": round(report.psnr, 2)}}
        (partial / CONFIG).write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    return report


@torch.no_grad()
def draw_images(generator: Generator, embeddings: NDArray[np.float32], count: int, seed: int) -> Tensor:
    """Images [count, 3, R, R] in [-1, 1] of random instances, noise of half its spread or more."""
    config, rng = generator.config, np.random.default_rng(seed)
    parts = []
    for _ in range(math.ceil(count / BATCH)):
        spread = rng.uniform(0.5, 1.0, (BATCH, 1))
        noise = torch.from_numpy((rng.standard_normal((BATCH, config.dim_z)) * spread).astype(np.float32))
        embedding = label = None
        if config.takes_embedding:
            rows = embeddings[rng.integers(len(embeddings), size=BATCH)]
            embedding = torch.from_numpy(rows.astype(np.float32))
        if config.class_count is not None:
            label = torch.from_numpy(rng.integers(config.class_count, size=BATCH))
        parts.append(generator(noise, embedding, label))
    return torch.cat(parts)[:count]
