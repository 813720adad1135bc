"""StyleGAN2 in the training loop: files, resuming bit for bit, penalties, the augmentation's probability."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from icgan_training.data.dataset import PreparedDataset
from icgan_training.distributed import ALONE
from icgan_training.errors import ConfigError
from icgan_training.fit.ada import ADA_UNIFORMS, AdaptiveAugment
from icgan_training.fit.inputs import Inputs
from icgan_training.fit.loop import fit, make_trainer
from icgan_training.fit.resume import list_checkpoints
from icgan_training.fit.stylegan2_step import StyleGAN2Trainer
from icgan_training.networks.checkpoint import load_discriminator, load_generator
from icgan_training.networks.presets import preset
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator

CPU = torch.device("cpu")
TINY = preset("tiny-stylegan2")


def settings(**changes: Any) -> Any:
    return dataclasses.replace(TINY.train, **changes)


def test_a_stopped_run_continues_bit_for_bit(make_prepared, tmp_path) -> None:
    data = PreparedDataset.open(make_prepared(count=24))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert fit(TINY.model, settings(total_images=48), data, whole, device=CPU)
    for images in (16, 48):
        assert fit(TINY.model, settings(total_images=images), data, parts, device=CPU)
    left, right = (load_file(list_checkpoints(run / "checkpoints")[-1]) for run in (whole, parts))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert left["augment.p"] > 0 or left["path.mean"] > 0
    assert isinstance(load_generator(whole), StyleGAN2Generator)
    assert load_discriminator(whole).config == TINY.model
    last = json.loads((whole / "log.jsonl").read_text().splitlines()[-1])
    assert last["images"] == 48


TWICE = """
import dataclasses, sys
from pathlib import Path
import torch
from icgan_training.data.dataset import PreparedDataset
from icgan_training.distributed import join, leave, wait
from icgan_training.fit.loop import fit
from icgan_training.networks.presets import preset

torch.set_num_threads(1)
tiny, cpu = preset("tiny-stylegan2"), torch.device("cpu")
processes = join(cpu)
for run, stops in (("whole", [32]), ("parts", [16, 32])):
    for images in stops:
        train = dataclasses.replace(tiny.train, total_images=images, precision="bfloat16")
        data = PreparedDataset.open(Path(sys.argv[1]))
        assert fit(tiny.model, train, data, Path(sys.argv[2]) / run, device=cpu, processes=processes)
        wait(processes)  # as a command that is given again does, for the files of the one before
leave()
"""


def test_two_processes_in_bfloat16_continue_bit_for_bit(make_prepared, tmp_path) -> None:
    data = make_prepared(count=24)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    group |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWICE, data, tmp_path],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), **group},
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    left, right = (
        load_file(list_checkpoints(tmp_path / run / "checkpoints")[-1]) for run in ("whole", "parts")
    )
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert left["path.mean"] > 0
    assert all(value.isfinite().all() for value in left.values() if value.is_floating_point())


def trainer(**changes: Any) -> StyleGAN2Trainer:
    made = make_trainer(TINY.model, settings(**changes), CPU, ALONE)
    assert isinstance(made, StyleGAN2Trainer)
    return made


def some_inputs() -> Inputs:
    source = torch.Generator().manual_seed(3)
    image = torch.rand(4, 3, 32, 32, generator=source) * 2 - 1
    embedding = torch.nn.functional.normalize(torch.randn(4, 16, generator=source), dim=1)
    noise, uniforms = torch.randn(4, 16, generator=source), torch.rand(4, 7, generator=source)
    return Inputs(image, embedding, None, noise, uniforms)


def test_the_gradient_penalty_is_the_squared_slope_of_the_discriminator() -> None:
    of, inputs = trainer(r1_gamma=2.0, r1_interval=3), some_inputs()
    assert inputs.image is not None
    found = of._gradient_penalty(inputs.image, inputs)
    image = inputs.image.double().requires_grad_(True)
    exact = of.discriminator.double()
    (slope,) = torch.autograd.grad(exact(image, inputs.embedding.double()).sum(), image)
    assert found.item() == pytest.approx(3 * slope.square().sum((1, 2, 3)).mean().item(), rel=1e-3)


def test_halves_of_a_batch_are_judged_as_they_are_alone() -> None:
    discriminator, inputs = trainer().discriminator, some_inputs()
    assert inputs.image is not None
    both = torch.cat([inputs.image, -inputs.image])
    twice = torch.cat([inputs.embedding, inputs.embedding])  # type: ignore[list-item]
    with torch.no_grad():
        together = discriminator(both, twice, parts=2)
        alone = discriminator(inputs.image, inputs.embedding)
    assert torch.allclose(together[:4], alone, atol=1e-5)


def test_the_average_follows_faster_at_the_start() -> None:
    of = trainer()
    early = 0.5 ** (4 / min(1000, 10 * 4 * 0.05))
    late = 0.5 ** (4 / min(1000, 100_000 * 4 * 0.05))
    assert early < 0.3 < 0.99 < late
    assert torch.equal(of.average.module.mapping.w_avg, of.generator.mapping.w_avg)


def test_the_augmentation_leaves_pictures_alone_at_zero_and_rises_when_d_is_sure() -> None:
    ada, images = AdaptiveAugment(0.6, 100), torch.rand(4, 3, 16, 16) * 2 - 1
    uniforms = torch.rand(4, ADA_UNIFORMS)
    assert torch.allclose(ada(images, uniforms), images, atol=1e-5)
    ada.observe(torch.ones(50, 1))
    ada.adjust()
    assert ada.p == 0.5
    assert not torch.allclose(ada(images, uniforms * 0.4), images, atol=1e-2)
    ada.observe(-torch.ones(20, 1))
    ada.adjust()
    assert ada.p.item() == pytest.approx(0.3)


def test_settings_of_the_other_backbone_are_refused(make_prepared) -> None:
    with pytest.raises(ConfigError, match="not the settings"):
        make_trainer(TINY.model, preset("tiny").train, CPU, ALONE)
