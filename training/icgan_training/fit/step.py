"""One training step: hinge losses, DiffAugment, spectral-norm networks, Adam and the average (BigGAN, §3)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from icgan_training.distributed import Processes, average_gradients
from icgan_training.fit import losses
from icgan_training.fit.augment import augment
from icgan_training.fit.ema import MovingAverage
from icgan_training.fit.freeze import freeze, trainable
from icgan_training.fit.resume import Stateful
from icgan_training.fit.sampler import Batch
from icgan_training.networks.config import Conditions, ModelConfig, TrainConfig
from icgan_training.networks.generator import Generator
from icgan_training.networks.layers import synchronise_statistics
from icgan_training.networks.projected import discriminator_class

Network = TypeVar("Network", bound=nn.Module)

STATISTICS = (
    "loss_discriminator",
    "loss_generator",
    "logit_real",
    "logit_fake",
    "grad_norm_discriminator",
    "grad_norm_generator",
)


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


class Trainer:
    """The two networks, their optimisers and the average, and the arithmetic of one step."""

    def __init__(self, model: ModelConfig, train: TrainConfig, device: torch.device, processes: Processes):
        torch.manual_seed(train.seed)
        self.layout = torch.channels_last if train.channels_last else torch.contiguous_format
        self.generator = placed(Generator(model), device, self.layout)
        self.discriminator = placed(discriminator_class(model)(model), device, self.layout)
        freeze(self.generator, self.discriminator, train)
        self._trainable = trainable(self.discriminator)
        if processes.world > 1:
            synchronise_statistics(self.generator, train.sync_batch_norm)
        self.average = MovingAverage(self.generator, train.ema_decay, train.ema_start)
        self.generator_optimizer = _adam(self.generator, train.generator_lr, train)
        self.discriminator_optimizer = _adam(self.discriminator, train.discriminator_lr, train)
        self.model, self.train, self.device, self.processes = model, train, device, processes
        self._generate: Callable[..., Tensor] = self.generator
        self._judge: Callable[..., Tensor] = self.discriminator
        if train.compile:
            self._generate, self._judge = torch.compile(self.generator), torch.compile(self.discriminator)

    def state(self) -> Stateful:
        """What a checkpoint holds."""
        return Stateful(
            {
                "generator": self.generator,
                "discriminator": self.discriminator,
                "average": self.average.module,
            },
            {
                "generator_optimizer": self.generator_optimizer,
                "discriminator_optimizer": self.discriminator_optimizer,
            },
        )

    def step(self, inputs: StepInputs, step: int) -> Tensor:
        """Train both networks once (D as often as configured); returns STATISTICS as a tensor."""
        for turn in inputs.turns:
            judged = self._discriminator_step(turn)
        generated = self._generator_step(inputs.generator)
        if self.train.ema_rampup:
            self.average.decay = min(self.train.ema_decay, 0.5 ** (1 / (step * self.train.ema_rampup)))
        self.average.update(step)
        loss_d, real, fake, norm_d = judged.unbind()
        loss_g, norm_g = generated.unbind()
        return torch.stack([loss_d, loss_g, real, fake, norm_d, norm_g])

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read afterwards counts all the work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _discriminator_step(self, turn: list[tuple[Inputs, Inputs]]) -> Tensor:
        """One update of D. Real and generated images pass through it in one batch, as published."""
        self._let_discriminator_learn(True)
        sums = torch.zeros(3, device=self.device)
        for real, fake in turn:
            with torch.no_grad(), self._autocast():
                generated = self._generate(fake.noise, fake.embedding, fake.label)
            assert real.image is not None
            logits = self._logits(torch.cat([real.image, generated.float()]), real, fake)
            on_real, on_fake = logits.chunk(2)
            loss = losses.discriminator_hinge(on_real, on_fake)
            torch.autograd.backward(loss / len(turn))
            sums += torch.stack([loss.detach(), on_real.detach().mean(), on_fake.detach().mean()])
        norm = self._update(self.discriminator, self.discriminator_optimizer)
        return torch.cat([sums / len(turn), norm[None]])

    def _generator_step(self, micro_batches: list[Inputs]) -> Tensor:
        """One update of G through a frozen D."""
        self._let_discriminator_learn(False)
        total = torch.zeros((), device=self.device)
        for fake in micro_batches:
            with self._autocast():
                generated = self._generate(fake.noise, fake.embedding, fake.label)
            loss = losses.generator_hinge(self._logits(generated.float(), fake))
            torch.autograd.backward(loss / len(micro_batches))
            total += loss.detach()
        norm = self._update(self.generator, self.generator_optimizer)
        return torch.stack([total / len(micro_batches), norm])

    def _logits(self, images: Tensor, *parts: Inputs) -> Tensor:
        """D's logits on augmented pictures, in float32. The augmentation itself stays in float32."""
        images = augment(images, self.train.diffaugment, torch.cat([part.uniforms for part in parts]))
        embedding = _cat([part.embedding for part in parts])
        label = _cat([part.label for part in parts])
        with self._autocast():
            logits = self._judge(images.contiguous(memory_format=self.layout), embedding, label)
        return logits.float()

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


def _adam(network: nn.Module, learning_rate: float, train: TrainConfig) -> torch.optim.Adam:
    betas = (train.beta1, train.beta2)
    return torch.optim.Adam(trainable(network), learning_rate, betas, eps=train.adam_eps, fused=True)


def _cat(tensors: list[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None
