"""Checkpoints to resume from: one safetensors file with everything, written whole or not at all.

    checkpoints/step-000012000.safetensors
        generator.*  discriminator.*  average.*                  state dicts
        generator_optimizer.<i>.*  discriminator_optimizer.<i>.* Adam's moments of parameter i
        metadata: the run's position as JSON, and what the content hashes to (integrity.py)

All randomness is a function of the seed and the step, so no random state is stored.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from icgan_runtime.files import atomic_file
from icgan_training.errors import CheckpointError
from icgan_training.integrity import read_sealed, seal

NAME = re.compile(r"step-(\d{9})\.safetensors")


@dataclass(frozen=True)
class Stateful:
    """What a run's state consists of, under the names it has in the file."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name."""
        found = {
            f"{prefix}.{name}": tensor
            for prefix, module in self.modules.items()
            for name, tensor in module.state_dict().items()
        }
        for prefix, optimizer in self.optimizers.items():
            for i, entry in optimizer.state_dict()["state"].items():
                found |= {f"{prefix}.{i}.{name}": tensor for name, tensor in entry.items()}
        return found


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the state after `step` steps belongs."""
    return folder / f"step-{step:09d}.safetensors"


def save_checkpoint(path: Path, state: Stateful, metadata: Mapping[str, Any]) -> None:
    """Write the state, and `metadata` as JSON beside it.

    Raises CheckpointError when the disk refuses; the other checkpoints are untouched then.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            save_file(tensors, partial, seal(tensors, "checkpoint", metadata))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {path} could not be written ({error}); {last_good(path.parent)}:"
            " free some space and run the same command again"
        ) from error


def last_good(folder: Path) -> str:
    """The newest complete checkpoint, in words."""
    paths = list_checkpoints(folder)
    return f"the last good checkpoint is {paths[-1]}" if paths else "there is no earlier checkpoint"


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*.safetensors") if NAME.fullmatch(path.name))


def load_checkpoint(path: Path, state: Stateful) -> dict[str, Any]:
    """Put a checkpoint's tensors into the state, strictly, and return its metadata.

    Values are copied into the tensors that are there, so that memory layouts (channels-last) stay as
    they are and resumed arithmetic is bit for bit the uninterrupted one.
    Raises CheckpointError for a damaged file or one of another model.
    """
    try:
        metadata, tensors = read_sealed(path, "checkpoint")
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({error}): delete it to go on from the one before it"
        ) from error
    try:
        for prefix, module in state.modules.items():
            _copy(_under(prefix, tensors), dict(module.state_dict()), prefix)
        for prefix, optimizer in state.optimizers.items():
            _restore_optimizer(_under(prefix, tensors), optimizer, prefix)
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint {path} is of another model: {error}. Use its settings or another --out"
        ) from error
    return metadata


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one prefix, without it."""
    return {
        name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + ".")
    }


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor], what: str) -> None:
    """Copy tensors of the same names and shapes; ValueError names the first that differs."""
    if odd := sorted(source.keys() ^ target.keys()):
        raise ValueError(f"{what}.{odd[0]} is in one of them only")
    for name, tensor in target.items():
        if tensor.shape != source[name].shape:
            raise ValueError(f"{what}.{name} is {list(source[name].shape)}, expected {list(tensor.shape)}")
        tensor.copy_(source[name])


def _restore_optimizer(source: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, what: str) -> None:
    """Adam's state of each parameter, on that parameter's device and in its memory layout.

    Its fused kernel relies on both, and wants the step count on the device too (torch's `load_state_dict`
    has the same exception).
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in source.items():
        index, entry = name.split(".", 1)
        if int(index) >= len(parameters):
            raise ValueError(f"{what} has a parameter {index}, expected {len(parameters)} of them")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter).copy_(tensor)
        elif tensor.dim() > 0:  # the step count is a scalar
            raise ValueError(f"{what}.{name} is {list(tensor.shape)}, expected {list(parameter.shape)}")
        optimizer.state[parameter][entry] = tensor.to(parameter.device)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what a kill left half written."""
    for path in list_checkpoints(folder)[:-keep]:
        path.unlink()
    for path in folder.glob(".*.safetensors"):
        path.unlink()
