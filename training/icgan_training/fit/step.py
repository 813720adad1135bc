"""One training step: hinge losses, DiffAugment, spectral-norm networks, Adam and the average (BigGAN, §3)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from icgan_training.distributed import Processes
from icgan_training.fit import losses
from icgan_training.fit.augment import augment
from icgan_training.fit.ema import MovingAverage
from icgan_training.fit.freeze import freeze, trainable
from icgan_training.fit.inputs import Inputs, StepInputs, cat
from icgan_training.fit.pair import Pair, placed
from icgan_training.fit.resume import Stateful
from icgan_training.networks.config import ModelConfig, TrainConfig
from icgan_training.networks.generator import Generator
from icgan_training.networks.layers import synchronise_statistics
from icgan_training.networks.projected import discriminator_class

STATISTICS = (
    "loss_discriminator",
    "loss_generator",
    "logit_real",
    "logit_fake",
    "grad_norm_discriminator",
    "grad_norm_generator",
)


class Trainer(Pair):
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
        embedding = cat([part.embedding for part in parts])
        label = cat([part.label for part in parts])
        with self._autocast():
            logits = self._judge(images.contiguous(memory_format=self.layout), embedding, label)
        return logits.float()


def _adam(network: nn.Module, learning_rate: float, train: TrainConfig) -> torch.optim.Adam:
    betas = (train.beta1, train.beta2)
    return torch.optim.Adam(trainable(network), learning_rate, betas, eps=train.adam_eps, fused=True)
