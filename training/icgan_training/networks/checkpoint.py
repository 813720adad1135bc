"""Weights files: safetensors whose metadata carries the model's config, loaded strictly, never pickled.

    metadata["config"] = {"schema_version": 1, "network": "generator", "model": config.to_dict()}

A file therefore rebuilds its own network, and says what its content hashes to (integrity.py). Matrices may be
stored in FP16 to halve the file; vectors, statistics and everything in memory are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from icgan_runtime.files import atomic_file
from icgan_training.errors import ConfigError, WeightsError
from icgan_training.integrity import read_sealed, seal
from icgan_training.networks.backbones import (
    AnyConfig,
    AnyDiscriminator,
    AnyGenerator,
    config_from_dict,
    make_discriminator,
    make_generator,
)
from icgan_training.networks.generator import Generator
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator

SCHEMA_VERSION = 1

_Network = TypeVar("_Network", bound=nn.Module)  # ours
_Config = TypeVar("_Config")


def save_weights(network: AnyGenerator | AnyDiscriminator, path: Path, *, half: bool = False) -> None:
    """Write a network to one file, whole or not at all.

    half: store matrices and kernels in FP16. Raises WeightsError when a value does not fit into FP16.
    """
    matrices = {name for name, parameter in network.named_parameters() if parameter.dim() > 1}
    tensors = {}
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if half and name in matrices:
            tensor = tensor.half()
            if not tensor.isfinite().all():
                raise WeightsError(f"{name} has values that FP16 cannot hold; store it in float32")
        tensors[name] = tensor
    config = {
        "schema_version": SCHEMA_VERSION,
        "network": _network_name(network),
        "model": network.config.to_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_file(path) as partial:
            partial.write_bytes(save(tensors, metadata=seal(tensors, "config", config)))
    except OSError as error:
        raise WeightsError(f"{path} could not be written: {error}") from error


def load_generator(run_dir: Path | str) -> AnyGenerator:
    """The generator of a run directory in eval mode, float32. Raises WeightsError on a bad file."""
    path = Path(run_dir) / "generator.safetensors"
    config, tensors = _read(path, "generator")
    return _assembled(make_generator, config, tensors, path)


def load_discriminator(run_dir: Path | str) -> AnyDiscriminator:
    """The discriminator of a run directory in eval mode, float32. Raises WeightsError on a bad file."""
    path = Path(run_dir) / "discriminator.safetensors"
    config, tensors = _read(path, "discriminator")
    return _assembled(make_discriminator, config, tensors, path)


def assign_strictly(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Make `tensors` the network's weights: every one of them used, none missing, every shape right.

    Raises WeightsError that lists the keys at fault.
    """
    wanted = network.state_dict()
    faults = [f"missing {name}" for name in sorted(wanted.keys() - tensors.keys())]
    faults += [f"unexpected {name}" for name in sorted(tensors.keys() - wanted.keys())]
    faults += [
        f"{name} is {list(tensors[name].shape)}, expected {list(wanted[name].shape)}"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise WeightsError(f"{origin} does not fit the {_network_name(network)}: {shown}")
    network.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)


def unallocated(make: Callable[[_Config], _Network], config: _Config) -> _Network:
    """A network of shapes only, for `assign_strictly` to fill: no weight is initialised in vain."""
    with torch.device("meta"):
        return make(config)


def _assembled(
    make: Callable[[AnyConfig], _Network], config: AnyConfig, tensors: Mapping[str, Tensor], path: Path
) -> _Network:
    built = unallocated(make, config)
    assign_strictly(built, tensors, str(path))
    return built.eval()


def _read(path: Path, network: str) -> tuple[AnyConfig, dict[str, Tensor]]:
    try:
        described, mapped = read_sealed(path, "config")
    except FileNotFoundError as error:
        raise WeightsError(f"{path} does not exist; {path.parent} is not a run with a {network}") from error
    except KeyError as error:
        raise WeightsError(f"{path} carries no config: it was not written by icgan-train") from error
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    tensors = {name: tensor.clone() for name, tensor in mapped.items()}  # the file may be replaced
    return _read_config(described, network, path), tensors


def _read_config(config: Mapping[str, Any], network: str, path: Path) -> AnyConfig:
    try:
        if config["schema_version"] != SCHEMA_VERSION:
            found = config["schema_version"]
            raise WeightsError(f"{path}: schema_version is {found}, this program reads {SCHEMA_VERSION}")
        if config["network"] != network:
            raise WeightsError(f"{path} holds a {config['network']}, not a {network}")
        return config_from_dict(config["model"])
    except (KeyError, TypeError, ConfigError) as error:
        raise WeightsError(f"{path}: its config cannot be read: {error}") from error


def _network_name(network: nn.Module) -> str:
    return "generator" if isinstance(network, Generator | StyleGAN2Generator) else "discriminator"
