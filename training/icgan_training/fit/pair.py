"""What the trainers of both backbones share: two networks that take turns, and the average's pictures."""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from icgan_training.distributed import Processes, average_gradients
from icgan_training.fit.ema import MovingAverage
from icgan_training.fit.inputs import Inputs
from icgan_training.networks.config import TrainConfig

Network = TypeVar("Network", bound=nn.Module)


class Pair:
    """Generator, discriminator and the generator's average on a device, in one process of several."""

    average: MovingAverage[Any]
    train: TrainConfig
    device: torch.device
    processes: Processes
    _trainable: list[nn.Parameter]  # of the discriminator: those that are not frozen

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read afterwards counts all the work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _let_discriminator_learn(self, learns: bool) -> None:
        """Give D's weights gradients or none; frozen ones never have any."""
        for weight in self._trainable:
            weight.requires_grad_(learns)

    def _update(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        """Average the gradients over the processes, step, clear; returns the gradient's norm."""
        average_gradients(network.parameters(), self.processes)
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.train.precision == "bfloat16")

    @torch.no_grad()
    def samples(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """The averaged generator's pictures, uint8 [N, R, R, 3]."""
        with self._autocast():
            images: Tensor = self.average.module(inputs.noise, inputs.embedding, inputs.label)
        pixels = ((images.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()


def placed(network: Network, device: torch.device, layout: torch.memory_format) -> Network:
    """The network on the device, its kernels in this memory layout, in training mode."""
    return network.to(device).to(memory_format=layout).train()  # type: ignore[call-overload,no-any-return]
