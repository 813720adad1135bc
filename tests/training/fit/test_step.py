"""One training step, held against the same arithmetic written out plainly."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from icgan_training.data.dataset import PreparedDataset
from icgan_training.distributed import ALONE
from icgan_training.fit.augment import augment
from icgan_training.fit.inputs import Inputs, StepInputs
from icgan_training.fit.sampler import Sampler
from icgan_training.fit.settings import resolve
from icgan_training.fit.step import Trainer
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.presets import preset

TINY = preset("tiny")
MODEL = dataclasses.replace(TINY.model, class_count=4)
CPU = torch.device("cpu")
BATCH = 4


def settings(**changes):
    # Adam divides by the gradient's own size; a larger epsilon lets its size show in the weights.
    return dataclasses.replace(
        TINY.train, batch_size=BATCH, adam_eps=0.1, ema_start=1, ema_decay=0.5, **changes
    )


@pytest.fixture
def sampler(make_prepared):
    data = PreparedDataset.open(make_prepared(labels=[i % 4 for i in range(40)]))
    return Sampler(
        data,
        np.asarray(data.labels),
        seed=0,
        dim_z=MODEL.dim_z,
        neighbourhoods=True,
        flip_images=True,
        flip_instances=True,
        balance=None,
    )


def inputs_of(sampler, train, step):
    """What the loop gives to one step, its batches cut in `train.accumulation` parts."""
    each = BATCH // train.accumulation

    def part(name, turn, cut):
        batch = sampler.draw(step, name, turn, BATCH, slice(cut * each, (cut + 1) * each))
        return Inputs.of(batch, MODEL, pin=False).to(CPU)

    cuts = range(train.accumulation)
    return StepInputs(
        [[(part("real", t, c), part("fake", t, c)) for c in cuts] for t in range(train.discriminator_steps)],
        [part("generator", 0, c) for c in cuts],
    )


class Plainly:
    """The published step: D's losses on real and generated pictures, then G's through D, each with Adam."""

    def __init__(self, trainer, train):
        self.generator, self.discriminator = map(copy.deepcopy, (trainer.generator, trainer.discriminator))
        self.average = {name: tensor.clone() for name, tensor in self.generator.state_dict().items()}
        self.train = train
        self.adam_g, self.adam_d = (
            torch.optim.Adam(network.parameters(), rate, (train.beta1, train.beta2), train.adam_eps)
            for network, rate in (
                (self.generator, train.generator_lr),
                (self.discriminator, train.discriminator_lr),
            )
        )

    def pictures(self, part):
        return self.generator(part.noise, part.embedding, part.label)

    def seen(self, images, part):
        return augment(images, self.train.diffaugment, part.uniforms)

    def step(self, inputs):
        for turn in inputs.turns:
            losses, reals, fakes = [], [], []
            for real, fake in turn:
                generated = self.pictures(fake).detach()
                logits = self.discriminator(
                    torch.cat([self.seen(real.image, real), self.seen(generated, fake)]),
                    torch.cat([real.embedding, fake.embedding]),
                    torch.cat([real.label, fake.label]),
                )
                on_real, on_fake = logits[: len(real.noise)], logits[len(real.noise) :]
                losses.append(F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean())
                reals.append(on_real.mean().item())
                fakes.append(on_fake.mean().item())
            loss_d = torch.stack(losses).mean()
            self.adam_d.zero_grad()
            loss_d.backward()
            self.adam_d.step()
        loss_g = torch.stack(
            [
                -self.discriminator(self.seen(self.pictures(p), p), p.embedding, p.label).mean()
                for p in inputs.generator
            ]
        ).mean()
        self.adam_g.zero_grad()
        loss_g.backward()
        self.adam_g.step()
        kept = self.train.ema_decay
        for name, tensor in self.generator.state_dict().items():
            self.average[name] = kept * self.average[name] + (1 - kept) * tensor
        return loss_d.item(), loss_g.item(), np.mean(reals), np.mean(fakes)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"discriminator_steps": 2, "diffaugment": ("color", "translation", "cutout")},
        {"accumulation": 2, "generator_lr": 1e-3},
    ],
    ids=["plain", "two turns of D, augmented", "accumulated"],
)
def test_steps_do_what_the_paper_says(sampler, changes):
    train = settings(**changes)
    trainer = Trainer(MODEL, train, CPU, ALONE)
    plainly = Plainly(trainer, train)
    for step in (1, 2):  # what a step leaves behind, such as D's gradients from G's turn, shows in the next
        inputs = inputs_of(sampler, train, step)
        found = trainer.step(inputs, step)[:4].tolist()
        assert found == pytest.approx(plainly.step(inputs), abs=1e-5)
    assert_equal(trainer.generator.state_dict(), plainly.generator.state_dict())
    assert_equal(trainer.discriminator.state_dict(), plainly.discriminator.state_dict())
    assert_equal(trainer.average.module.state_dict(), plainly.average)


def test_a_model_of_512_pixels_takes_a_step(make_prepared):
    data = PreparedDataset.open(make_prepared(count=8, resolution=512))
    small = {"resolution": 512, "ch": 1, "batch_size": 2, "accumulation": 1}
    model, train = resolve(preset("icgan-imagenet-256"), data, small)
    assert isinstance(model, ModelConfig)
    trainer = Trainer(model, train, CPU, ALONE)
    before = copy.deepcopy(trainer.generator.state_dict())
    sampler = Sampler(
        data, None, seed=0, dim_z=model.dim_z, neighbourhoods=True, flip_images=True, flip_instances=True,
        balance=None,
    )  # fmt: skip
    real, fake, last = (
        Inputs.of(sampler.draw(1, name, 0, 2, slice(0, 2)), model, pin=False).to(CPU)
        for name in ("real", "fake", "generator")
    )
    assert trainer.step(StepInputs([[(real, fake)]], [last]), 1).isfinite().all()
    moved = [name for name, tensor in trainer.generator.named_parameters() if (tensor != before[name]).any()]
    assert any(name.startswith("blocks.0.") for name in moved)
    assert any(name.startswith("blocks.6.") for name in moved)
