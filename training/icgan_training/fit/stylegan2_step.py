"""One training step of StyleGAN2 (Karras et al. 2020): logistic losses, lazy penalties, ADA, ramped average.

Deterministic like the step of BigGAN: what is random beyond the batch is a function of the seed, the step and
the process.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icgan_training.distributed import Processes, average
from icgan_training.fit.ada import ADA_UNIFORMS, RATE_STEPS, AdaptiveAugment
from icgan_training.fit.augment import augment
from icgan_training.fit.ema import MovingAverage
from icgan_training.fit.freeze import freeze, trainable
from icgan_training.fit.inputs import Inputs, StepInputs, cat
from icgan_training.fit.pair import Pair, placed
from icgan_training.fit.resume import Stateful
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.discriminator import StyleGAN2Discriminator
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator
from icgan_training.networks.stylegan2.train import StyleGAN2TrainConfig

PATH_DECAY = 0.01  # of the mean path length, a penalty


class PathLength(nn.Module):
    """The mean path length that the penalty pulls towards; checkpoints carry it."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))


class StyleGAN2Trainer(Pair):
    """The two networks, their optimisers and the average, and the arithmetic of one step."""

    train: StyleGAN2TrainConfig

    def __init__(
        self, model: StyleGAN2Config, train: StyleGAN2TrainConfig, device: torch.device, processes: Processes
    ) -> None:
        torch.manual_seed(train.seed)
        layout = torch.channels_last if train.channels_last else torch.contiguous_format
        self.layout = layout
        self.generator = placed(StyleGAN2Generator(model), device, layout)
        self.discriminator = placed(StyleGAN2Discriminator(model), device, layout)
        freeze(self.generator, self.discriminator, train)
        self._trainable = trainable(self.discriminator)
        self.average = MovingAverage(self.generator, 0.0, 0)
        self.augment = AdaptiveAugment(train.ada_target, train.ada_images).to(device)
        self.path = PathLength().to(device)
        self.generator_optimizer = _lazy_adam(
            self.generator, train.generator_lr, train, train.path_interval if train.path_weight else 0
        )
        self.discriminator_optimizer = _lazy_adam(
            self.discriminator, train.discriminator_lr, train, train.r1_interval if train.r1_gamma else 0
        )
        self.model, self.train, self.device, self.processes = model, train, device, processes

    def state(self) -> Stateful:
        """What a checkpoint holds."""
        return Stateful(
            {
                "generator": self.generator,
                "discriminator": self.discriminator,
                "average": self.average.module,
                "augment": self.augment,
                "path": self.path,
            },
            {
                "generator_optimizer": self.generator_optimizer,
                "discriminator_optimizer": self.discriminator_optimizer,
            },
        )

    def step(self, inputs: StepInputs, step: int) -> Tensor:
        """Train both networks once; returns STATISTICS as a tensor."""
        random = torch.Generator(self.device).manual_seed(self._seed(step))
        judged = self._discriminator_step(inputs.turns[0], step, random)
        generated = self._generator_step(inputs.generator, step, random)
        if self.train.ada_target and step % RATE_STEPS == 0:
            if self.processes.world > 1:
                torch.distributed.all_reduce(self.augment.signs)
            self.augment.adjust()
        half_life = min(self.train.ema_images, step * self.train.batch_size * self.train.ema_rampup)
        self.average.decay = 0.5 ** (self.train.batch_size / max(half_life, 1e-8))
        self.average.update(step)
        self.average.module.mapping.w_avg.copy_(self.generator.mapping.w_avg)
        loss_d, real, fake, norm_d = judged.unbind()
        loss_g, norm_g = generated.unbind()
        return torch.stack([loss_d, loss_g, real, fake, norm_d, norm_g])

    def _seed(self, step: int) -> int:
        rank = self.processes.rank
        words = np.random.Philox(key=self.train.seed, counter=[1, rank, 0, step]).random_raw(1)
        return int(words[0] >> np.uint64(1))

    def _discriminator_step(
        self, turn: list[tuple[Inputs, Inputs]], step: int, random: torch.Generator
    ) -> Tensor:
        """One update of D; every `r1_interval` steps with the gradient penalty on real pictures (R1)."""
        self._let_discriminator_learn(True)
        penalise = self.train.r1_gamma > 0 and step % self.train.r1_interval == 0
        sums = torch.zeros(3, device=self.device)
        for real, fake in turn:
            with torch.no_grad(), self._autocast():
                generated, _ = self._generate(fake, random)
            assert real.image is not None
            # Real and generated pictures pass D in one batch; variety is measured in each half by itself.
            images = self._augmented(torch.cat([real.image, generated.float()]), (real, fake), random)
            logits = self._judge(images, (real, fake), parts=2)
            on_real, on_fake = logits.chunk(2)
            loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
            torch.autograd.backward(loss / len(turn))
            self.augment.observe(on_real)
            sums += torch.stack([loss.detach(), on_real.detach().mean(), on_fake.detach().mean()])
            if penalise:
                torch.autograd.backward(self._gradient_penalty(images[: len(real.image)], real) / len(turn))
        norm = self._update(self.discriminator, self.discriminator_optimizer)
        return torch.cat([sums / len(turn), norm[None]])

    def _gradient_penalty(self, images: Tensor, real: Inputs) -> Tensor:
        """gamma/2 |dD/dx|^2 on augmented real pictures, with the weight of the steps it stands for."""
        images = images.detach().requires_grad_(True)
        logits = self._judge(images, (real,))
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        penalty: Tensor = gradient.square().sum((1, 2, 3)).mean()
        return penalty * (self.train.r1_gamma / 2 * self.train.r1_interval)

    def _generator_step(self, parts: list[Inputs], step: int, random: torch.Generator) -> Tensor:
        """One update of G through a frozen D; every `path_interval` steps with the path length penalty."""
        self._let_discriminator_learn(False)
        total = torch.zeros((), device=self.device)
        penalise = self.train.path_weight > 0 and step % self.train.path_interval == 0
        for fake in parts:
            with self._autocast():
                generated, w = self._generate(fake, random)
            self.generator.mapping.follow(average(w.detach().float().mean(0), self.processes))
            logits = self._judge(self._augmented(generated.float(), (fake,), random), (fake,))
            loss = F.softplus(-logits).mean()
            torch.autograd.backward(loss / len(parts))
            total += loss.detach()
            if penalise:
                torch.autograd.backward(self._path_penalty(fake, random) / len(parts))
        norm = self._update(self.generator, self.generator_optimizer)
        return torch.stack([total / len(parts), norm])

    def _path_penalty(self, fake: Inputs, random: torch.Generator) -> Tensor:
        """How unevenly the picture follows w (StyleGAN2, section 3.2), on part of the batch, in float32."""
        count = max(1, len(fake.noise) // self.train.path_shrink)
        embedding = None if fake.embedding is None else fake.embedding[:count]
        label = None if fake.label is None else fake.label[:count]
        some = Inputs(None, embedding, label, fake.noise[:count], fake.uniforms[:count])
        ws = self._latents(some, random)[0]
        image = self.generator.synthesis(ws, self._layer_noise(count, random))
        weights = torch.randn(image.shape, generator=random, device=self.device) / image.shape[-1]
        (gradient,) = torch.autograd.grad((image * weights).sum(), ws, create_graph=True)
        lengths = gradient.square().sum(2).mean(1).sqrt()
        with torch.no_grad():
            self.path.mean.lerp_(average(lengths.mean(), self.processes), PATH_DECAY)
        penalty: Tensor = (lengths - self.path.mean).square().mean()
        return penalty * (self.train.path_weight * self.train.path_interval)

    def _generate(self, fake: Inputs, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures with fresh noise in every layer, and their w [N, dim_w]."""
        ws, w = self._latents(fake, random)
        return self.generator.synthesis(ws, self._layer_noise(len(w), random)), w

    def _latents(self, fake: Inputs, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """ws [N, latents, dim_w], where mixed those of another noise from a random layer on, and w."""
        w = self.generator.latents(fake.noise, fake.embedding, fake.label)
        count, layers = len(w), self.model.latents
        ws = w[:, None].expand(-1, layers, -1)
        if self.train.style_mixing:
            noise = torch.randn(fake.noise.shape, generator=random, device=self.device)
            other = self.generator.latents(noise, fake.embedding, fake.label)
            draws = torch.rand(2, count, generator=random, device=self.device)
            first = 1 + (draws[0] * (layers - 1)).floor()
            first = torch.where(draws[1] < self.train.style_mixing, first, float(layers))
            mixed = torch.arange(layers, device=self.device)[None] >= first[:, None]
            ws = torch.where(mixed[:, :, None], other[:, None], ws)
        return ws, w

    def _layer_noise(self, count: int, random: torch.Generator) -> list[Tensor]:
        """Standard normal numbers for each layer in turn, [N, 1, side, side]."""
        sides = [side for side in self.model.sides for _ in range(1 if side == 4 else 2)]
        return [torch.randn(count, 1, side, side, generator=random, device=self.device) for side in sides]

    def _augmented(self, images: Tensor, parts: tuple[Inputs, ...], random: torch.Generator) -> Tensor:
        images = augment(images, self.train.diffaugment, torch.cat([part.uniforms for part in parts]))
        if self.train.ada_target:
            shape = len(images), ADA_UNIFORMS
            images = self.augment(images, torch.rand(shape, generator=random, device=self.device))
        return images

    def _judge(self, images: Tensor, batch: tuple[Inputs, ...], parts: int = 1) -> Tensor:
        """D's logits in float32."""
        embedding = cat([part.embedding for part in batch])
        label = cat([part.label for part in batch])
        with self._autocast():
            logits: Tensor = self.discriminator(
                images.contiguous(memory_format=self.layout), embedding, label, parts=parts
            )
        return logits.float()


def _lazy_adam(
    network: nn.Module, learning_rate: float, train: StyleGAN2TrainConfig, interval: int
) -> torch.optim.Adam:
    """Adam whose rate and memory make up for a penalty that counts in one of `interval` steps."""
    share = interval / (interval + 1) if interval else 1.0
    betas = (train.beta1**share, train.beta2**share)
    return torch.optim.Adam(trainable(network), learning_rate * share, betas, eps=train.adam_eps, fused=True)
