"""Published StyleGAN2 IC-GAN weights become run directories, strictly and without running their code.

Two forms: a snapshot (`network-snapshot*.pkl`, `best-network-snapshot.pkl`), a pickle whose modules carry
their source, which is read as inert data; and a folder with `G_ema_state_dict.pth` beside `config.json`.
Their keys are ours, but for the copies of the resampling filter in every layer, which have to be the filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from icgan_runtime.files import sha256_of_file
from icgan_training.errors import ConfigError, WeightsError
from icgan_training.inert_pickle import InertObject, read_inert
from icgan_training.integrity import read_json
from icgan_training.networks.checkpoint import assign_strictly, unallocated
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.discriminator import StyleGAN2Discriminator
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator
from icgan_training.networks.stylegan2.layers import filter_kernel
from icgan_training.official import read_safely, write_run

SNAPSHOTS = ("best-network-snapshot.pkl", "network-snapshot*.pkl", "*.pkl")  # in the order of preference
ENCODER = "SwAV"  # whose embeddings the published weights were trained on
STATE_DICT = "G_ema_state_dict.pth"
# Settings that have to be as published where a file names them; another value is another architecture.
FIXED_SYNTHESIS = {"architecture": "skip", "resample_filter": [1, 3, 3, 1], "use_noise": True,
                   "activation": "lrelu"}  # fmt: skip
FIXED_MAPPING = {"activation": "lrelu", "lr_multiplier": 0.01, "layer_features": None}
FIXED_DISCRIMINATOR = {"architecture": "resnet", "resample_filter": [1, 3, 3, 1], "activation": "lrelu"}

_Network = TypeVar("_Network", StyleGAN2Generator, StyleGAN2Discriminator)


@dataclass(frozen=True)
class Snapshot:
    """The networks of one published file."""

    file: Path
    generator: StyleGAN2Generator  # the average, in eval mode
    discriminator: StyleGAN2Discriminator | None
    data: str | None  # what the file calls its training set


def convert_stylegan2(
    file: Path, out: Path, *, encoder: Path | None = None, squeezed: bool = False
) -> Snapshot:
    """Write a run directory from published weights that `find_stylegan2` found; see `official.convert`."""
    snapshot = read_stylegan2(file)
    config = snapshot.generator.config
    described = {
        "name": file.resolve().parent.name if file.name in (STATE_DICT, SNAPSHOTS[0]) else file.stem,
        "model": config.to_dict(),
        "provenance": {
            "source": "published StyleGAN2 IC-GAN weights, converted by icgan-train",
            "data": snapshot.data,
            "files": {file.name: sha256_of_file(file)},
        },
    }
    write_run(out, snapshot.generator, snapshot.discriminator, encoder, ENCODER, described, squeezed)
    return snapshot


def find_stylegan2(path: Path) -> Path | None:
    """The file of published StyleGAN2 weights that `path` is or holds; None of anything else."""
    if path.is_file():
        return path if path.suffix == ".pkl" else None
    if (path / STATE_DICT).exists() and (path / "config.json").exists():
        return path / STATE_DICT
    for pattern in SNAPSHOTS if path.is_dir() else ():
        if found := sorted(path.glob(pattern)):
            return found[-1]
    return None


def read_stylegan2(file: Path) -> Snapshot:
    """Either form. Raises WeightsError for what is damaged, unsafe, incomplete or of another architecture."""
    return _read_folder(file) if file.name == STATE_DICT else _read_snapshot(file)


def _read_snapshot(file: Path) -> Snapshot:
    found = read_inert(file)
    if not isinstance(found, dict) or not isinstance(found.get("G_ema"), InertObject):
        raise WeightsError(f"{file} is no StyleGAN2 snapshot: expected an entry `G_ema`")
    described = found["G_ema"]
    settings = dict(described.state.get("_init_kwargs") or {})
    judge = found.get("D")
    judging = judge.state.get("_init_kwargs") if isinstance(judge, InertObject) else {}
    config = _config(settings, judging, file)
    generator = _filled(StyleGAN2Generator, config, tensors_of(described), f"{file}: G_ema")
    discriminator = None
    if isinstance(judge, InertObject):
        discriminator = _filled(StyleGAN2Discriminator, config, tensors_of(judge), f"{file}: D")
    training_set = found.get("training_set_kwargs")
    data = training_set.get("path") if isinstance(training_set, dict) else None
    return Snapshot(file, generator, discriminator, Path(str(data)).name if data else None)


def _read_folder(file: Path) -> Snapshot:
    content = read_safely(file)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{file} is not a state dict: expected a mapping of names to tensors")
    try:
        settings = read_json(file.with_name("config.json"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file.with_name('config.json')} cannot be read: {error}") from error
    config = _config(settings, {}, file)
    return Snapshot(file, _filled(StyleGAN2Generator, config, content, str(file)), None, None)


def tensors_of(module: InertObject, prefix: str = "") -> dict[str, Tensor]:
    """The state dict of a module that is inert data."""
    found: dict[str, Tensor] = {}
    for kind in ("_parameters", "_buffers"):
        for name, value in (module.state.get(kind) or {}).items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
    for name, child in (module.state.get("_modules") or {}).items():
        if isinstance(child, InertObject):
            found |= tensors_of(child, f"{prefix}{name}.")
    return found


def _filled(
    network: type[_Network], config: StyleGAN2Config, tensors: Mapping[str, Tensor], origin: str
) -> _Network:
    """A network with these weights, all of them and no others."""
    wanted, kept = filter_kernel(1.0).float(), {}
    for name, value in tensors.items():
        if not name.endswith("resample_filter"):
            kept[name] = value
        elif value.shape != wanted.shape or not torch.allclose(value.float(), wanted, atol=1e-6):
            raise WeightsError(f"{origin}: {name} is not the filter 1-3-3-1, which is all that is supported")
    built = unallocated(network, config)
    assign_strictly(built, kept, origin)
    return built.eval()


def _config(settings: Mapping[str, Any], judge: Any, origin: Path) -> StyleGAN2Config:
    """The model that a generator's settings describe, and what its discriminator's add."""
    synthesis = dict(settings.get("synthesis_kwargs") or {})
    mapping = dict(settings.get("mapping_kwargs") or {})
    judge = dict(judge or {})
    epilogue, judging = dict(judge.get("epilogue_kwargs") or {}), dict(judge.get("mapping_kwargs") or {})
    as_published = ((synthesis, FIXED_SYNTHESIS), (mapping, FIXED_MAPPING), (judge, FIXED_DISCRIMINATOR))
    for given, fixed in as_published:
        for name, expected in fixed.items():
            if given.get(name, expected) != expected:
                raise WeightsError(
                    f"{origin}: {name} is {given[name]!r}; only {expected!r} is an architecture of ours"
                )
    if settings.get("img_channels", 3) != 3:
        raise WeightsError(f"{origin}: {settings['img_channels']} channels; pictures of ours have 3")
    try:
        return StyleGAN2Config(
            resolution=settings["img_resolution"],
            embedding_dim=settings.get("h_dim") or None,
            class_count=settings.get("c_dim") or None,
            dim_z=settings["z_dim"],
            dim_w=settings["w_dim"],
            channel_base=synthesis.get("channel_base", 32768),
            channel_max=synthesis.get("channel_max", 512),
            mapping_layers=mapping.get("num_layers", 8),
            discriminator_mapping_layers=judging.get("num_layers", 8),
            conv_clamp=synthesis.get("conv_clamp"),
            half_sides=synthesis.get("num_fp16_res", 0),
            minibatch_group=epilogue.get("mbstd_group_size", 4) or 1,
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise WeightsError(f"{origin}: its settings do not describe a model: {error}") from error
