"""Published IC-GAN experiments (BigGAN backbone) become run directories, strictly and without foreign code.

An experiment is a folder, whatever it is called, with files `{G_ema,G,D,state_dict}<suffix>.pth`; the suffix
is empty, `_copy0`, `_copy1`, `_best0` or `_best1`. They are read with torch's restricted unpickler. Their
keys are ours, but for three things this module accounts for: the `module.` prefix of the distributed wrapper,
`sv0` (the last singular value, which evaluation never reads), and the class table that models without
classes carry unused.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from icgan_runtime.files import atomic_directory, sha256_of_file
from icgan_runtime.identity import SQUEEZE
from icgan_training.errors import ConfigError, WeightsError
from icgan_training.networks.backbones import AnyDiscriminator, AnyGenerator
from icgan_training.networks.checkpoint import assign_strictly, save_weights, unallocated
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.discriminator import Discriminator
from icgan_training.networks.encoder import bind_encoder, read_encoder_config
from icgan_training.networks.generator import Generator

_Network = TypeVar("_Network", Generator, Discriminator)

LICENCE = "CC-BY-NC-4.0"
NOTICE = "Published IC-GAN weights of Facebook AI Research: not for commercial use."
SUFFIXES = ("_best0", "_best1", "", "_copy0", "_copy1")

# Everything but tensors and plain containers that a published file may name: the activation modules inside
# its settings and the numpy scalars of its scores, under the module names of numpy 1 and numpy 2.
_SCALAR = np.float64(0).__reduce__()[0]
ALLOWED_GLOBALS: list[Any] = [
    nn.ReLU,
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]

# Settings that have to be as published; another value means another architecture.
FIXED_SETTINGS: dict[str, Any] = {
    "model": "BigGAN",
    "G_param": "SN",
    "D_param": "SN",
    "G_nl": "relu",
    "D_nl": "relu",
    "norm_style": "bn",
    "G_shared": True,
    "D_wide": True,
    "num_G_SVs": 1,
    "num_D_SVs": 1,
    "constant_conditioning": False,
}


@dataclass(frozen=True)
class Experiment:
    """The files of one saved state of a published experiment, and its settings."""

    folder: Path
    suffix: str
    settings: Mapping[str, Any]  # as the experiment was started with
    iterations: int
    recorded_fid: float  # NaN when none was recorded

    @property
    def config(self) -> ModelConfig:
        """The model these settings describe. Raises WeightsError when it is not one of ours."""
        return _model_config(self.settings, self.folder)

    @property
    def encoder(self) -> str:
        """Whose ResNet-50 embeddings the model was trained on."""
        if self.settings.get("feature_extractor") == "selfsupervised":
            return "SwAV"
        long_tailed = self.settings.get("longtail") or "_lt" in str(self.settings.get("which_dataset"))
        return "classifier-balancing" if long_tailed else "torchvision"

    @property
    def generator_file(self) -> Path:
        """The averaged weights, unless the experiment kept no average."""
        averaged = self.settings.get("ema", True) and self.settings.get("use_ema", True)
        return self.folder / f"{'G_ema' if averaged else 'G'}{self.suffix}.pth"

    @property
    def discriminator_file(self) -> Path:
        """Absent from the published archives, present in one's own experiments."""
        return self.folder / f"D{self.suffix}.pth"


def convert(folder: Path, out: Path, *, encoder: Path | None = None, squeezed: bool = False) -> Experiment:
    """Write a run directory from a published experiment folder, and an encoder (a file of ours or torch's).

    Raises WeightsError for a file that is missing, damaged, unsafe or does not fit, before `out` exists.
    """
    check_free(out)
    experiment = open_experiment(folder)
    files = [experiment.generator_file]
    generator = load_network(Generator, experiment.generator_file, experiment.config)
    discriminator = None
    if experiment.discriminator_file.exists():
        files.append(experiment.discriminator_file)
        discriminator = load_network(Discriminator, experiment.discriminator_file, experiment.config)
    described = _describe(experiment, files)
    write_run(out, generator, discriminator, encoder, experiment.encoder, described, squeezed)
    return experiment


def check_free(out: Path) -> None:
    """Raise WeightsError, before any work is done, where something is at `out` already."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise WeightsError(f"--out {out} is in use; name a new directory")


def write_run(
    out: Path,
    generator: AnyGenerator,
    discriminator: AnyDiscriminator | None,
    encoder: Path | None,
    trained_with: str,
    described: Mapping[str, Any],
    squeezed: bool,
) -> None:
    """A run directory of published networks, whole or not at all.

    encoder: a file of ours or torch's; trained_with: whose ResNet-50 it should be. described: `name`, `model`
    and `provenance` of config.json. squeezed: whether its pictures were squeezed to the square; those of
    COCO-Stuff were. Raises WeightsError.
    """
    check_free(out)
    try:
        with atomic_directory(out) as partial:
            copy = partial / "encoder.safetensors"
            if encoder is not None:
                bind_encoder(encoder, copy)
            identity = _encoder_identity(generator.config.embedding_dim, copy)
            config = {
                "schema_version": 1,
                "name": described["name"],
                "model": described["model"],
                "encoder": identity | {"trained_with": trained_with},
                "licence": {"weights": LICENCE, "notice": NOTICE},
                "provenance": described["provenance"],
            }
            names = f"{described['name']} {described['provenance']['data']}".lower()
            if squeezed or re.search("(?<![a-z])coco(?![a-z])", names):
                config["data"] = {"crop": SQUEEZE}
            save_weights(generator, partial / "generator.safetensors")
            if discriminator is not None:
                save_weights(discriminator, partial / "discriminator.safetensors")
            (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise WeightsError(f"--out {out} cannot be written: {error}") from error


def open_experiment(folder: Path) -> Experiment:
    """Find the saved state to use: of `best0` and `best1` the one with the lower recorded FID.

    An experiment without a best state offers its latest one. Raises WeightsError when there is none.
    """
    if not folder.is_dir():
        raise WeightsError(
            f"{folder} is not a folder; unpack the published archive and name the folder in it"
        )
    found = []
    for suffix in SUFFIXES:
        if (folder / f"state_dict{suffix}.pth").exists():
            experiment = _read_state(folder, suffix)
            if experiment.generator_file.exists():
                found.append(experiment)
    if not found:
        raise WeightsError(
            f"{folder} holds no published experiment: expected G_ema_best0.pth beside state_dict_best0.pth"
        )
    best = [experiment for experiment in found if "best" in experiment.suffix]
    if best:
        return min(best, key=lambda e: math.inf if math.isnan(e.recorded_fid) else e.recorded_fid)
    return max(found, key=lambda e: e.iterations)


def load_network(network: type[_Network], path: Path, config: ModelConfig) -> _Network:
    """A network with the weights of one published file, in eval mode.

    Raises WeightsError that names every key which is missing, unexpected or of another shape.
    """
    content = read_safely(path)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} is not a state dict: expected a mapping of names to tensors")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    built = unallocated(network, config)
    assign_strictly(built, _our_keys(content, built), str(path))
    return built.eval()


def read_safely(path: Path) -> Any:
    """The content of a torch file. Nothing the file names is called, beyond `ALLOWED_GLOBALS`.

    Raises WeightsError for a file that is missing or damaged, or that asks for anything else to run.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on pickle protocols; the errors below say enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path} does not exist") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is not read: it is damaged, or loading it could run code it carries ({_reason(error)})"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is truncated or not a torch file ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """The line of a many-lined torch message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next(
        (line for line in lines if "Unsupported" in line), lines[0] if lines else type(error).__name__
    )


def _our_keys(official: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Without what the published files carry beyond our keys. WeightsError when a part of that is absent."""
    wanted = network.state_dict()
    surplus = {name.removesuffix("u0") + "sv0" for name in wanted if name.endswith(".u0")}
    if isinstance(network, Generator) and "shared.weight" not in wanted:
        surplus.add("shared.weight")
    absent = sorted(surplus - official.keys())
    if absent:
        raise WeightsError(
            f"not a published {type(network).__name__.lower()}: missing {', '.join(absent[:8])}"
        )
    return {name: value for name, value in official.items() if name not in surplus}


def _read_state(folder: Path, suffix: str) -> Experiment:
    path = folder / f"state_dict{suffix}.pth"
    content = read_safely(path)
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise WeightsError(f"{path} has no settings: expected an entry `config`")
    try:
        fid = float(content.get("best_FID", math.nan))
        return Experiment(folder, suffix, content["config"], int(content.get("itr", 0)), fid)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: best_FID and itr must be numbers: {error}") from error


def _model_config(settings: Mapping[str, Any], folder: Path) -> ModelConfig:
    for name, expected in FIXED_SETTINGS.items():
        if settings.get(name, expected) != expected:
            raise WeightsError(
                f"{folder}: {name} is {settings[name]!r}; only {expected!r} is an architecture of ours"
            )
    for name in ("ch", "attn"):
        if settings.get("G_" + name) != settings.get("D_" + name):
            raise WeightsError(f"{folder}: G_{name} and D_{name} differ; one model has one value")
    try:
        return ModelConfig(
            resolution=settings["resolution"],
            ch=settings["G_ch"],
            attention=tuple(int(side) for side in str(settings["G_attn"]).split("_") if int(side) > 0),
            dim_z=settings["dim_z"],
            hierarchical=settings["hier"],
            shared_dim=settings["shared_dim"],
            shared_dim_feat=settings["shared_dim_feat"],
            embedding_dim=2048 if settings["instance_cond"] else None,
            class_count=settings["n_classes"] if settings["class_cond"] else None,
        )
    except (KeyError, ValueError, TypeError, ConfigError) as error:
        raise WeightsError(f"{folder}: its settings do not describe a model: {error}") from error


def _encoder_identity(embedding_dim: int | None, copy: Path) -> dict[str, Any]:
    """The encoder entry of config.json; the hash is null where there is no encoder at `copy`."""
    identity = {"name": "resnet50", "sha256": None, "input_size": 224, "embedding_dim": embedding_dim}
    if copy.exists():
        config = read_encoder_config(copy)
        if config.embedding_dim != embedding_dim:
            raise WeightsError(
                f"--encoder gives {config.embedding_dim} columns; the model takes {embedding_dim}"
            )
        identity |= {
            "name": config.architecture,
            "sha256": sha256_of_file(copy),
            "input_size": config.input_size,
        }
    return identity


def _describe(experiment: Experiment, files: Iterable[Path]) -> dict[str, Any]:
    return {
        "name": str(experiment.settings.get("experiment_name") or experiment.folder.name),
        "model": experiment.config.to_dict(),
        "provenance": {
            "source": "published IC-GAN checkpoint, converted by icgan-train",
            "file_suffix": experiment.suffix,
            "data": experiment.settings.get("which_dataset"),
            "iterations": experiment.iterations,
            "recorded_fid": None if math.isnan(experiment.recorded_fid) else experiment.recorded_fid,
            "files": {file.name: sha256_of_file(file) for file in files},
        },
    }
