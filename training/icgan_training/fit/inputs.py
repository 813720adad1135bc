"""A step's batches as tensors."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from icgan_training.fit.sampler import Batch
from icgan_training.networks.config import Conditions


@dataclass(frozen=True)
class Inputs:
    """A batch as tensors on the device; `image` [N, 3, R, R] in [-1, 1] only for real pictures."""

    image: Tensor | None
    embedding: Tensor | None  # [N, D]
    label: Tensor | None  # [N]
    noise: Tensor  # [N, dim_z]
    uniforms: Tensor  # [N, UNIFORMS]

    @classmethod
    def of(cls, batch: Batch, model: Conditions, *, pin: bool) -> "Inputs":
        """The parts of a batch that the model takes, as tensors on the CPU; pictures still uint8, NCHW."""

        def tensor(array: npt.NDArray[Any]) -> Tensor:
            made = torch.from_numpy(array)
            return made.pin_memory() if pin else made

        return cls(
            None if batch.image is None else tensor(batch.image).permute(0, 3, 1, 2),
            tensor(batch.embedding) if model.takes_embedding else None,
            tensor(batch.label) if model.class_count is not None and batch.label is not None else None,
            tensor(batch.noise),
            tensor(batch.uniforms),
        )

    def to(self, device: torch.device) -> "Inputs":
        """On the device, pictures as float32 in [-1, 1]; NHWC arrays arrive as channels-last tensors."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        image = move(self.image)
        noise, uniforms = (
            self.noise.to(device, non_blocking=True),
            self.uniforms.to(device, non_blocking=True),
        )
        if image is not None:
            image = image.float().div_(127.5).sub_(1)
        return Inputs(image, move(self.embedding), move(self.label), noise, uniforms)


@dataclass(frozen=True)
class StepInputs:
    """Everything one step trains on: D's turns and G's batch, each cut for accumulation."""

    turns: list[list[tuple[Inputs, Inputs]]]  # [discriminator_steps][accumulation] of (real, fake)
    generator: list[Inputs]  # [accumulation]

    def to(self, device: torch.device) -> "StepInputs":
        """All of it on the device, as `Inputs.to` puts it there."""
        return StepInputs(
            [[(real.to(device), fake.to(device)) for real, fake in turn] for turn in self.turns],
            [fake.to(device) for fake in self.generator],
        )


def cat(tensors: list[Tensor | None]) -> Tensor | None:
    """The tensors that are there, one after the other; None where none is."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None
