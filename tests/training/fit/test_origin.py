"""Fine-tuning as its user meets it: where a run starts, what it refuses, and that it goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.fit.loop import fit
from icgan_training.fit.origin import Origin
from icgan_training.fit.resume import list_checkpoints
from icgan_training.fit.settings import resolve
from icgan_training.networks.checkpoint import load_generator
from icgan_training.networks.generator import Generator
from icgan_training.networks.presets import preset

CPU = torch.device("cpu")
BACKBONES = ("tiny", "tiny-stylegan2")
SLOW = {"generator_lr": 1e-12, "discriminator_lr": 1e-12, "total_images": 4}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(data, run, name="tiny", **changes):
    """A run directory of a few steps."""
    changes = {"total_images": 16, **changes}
    fit(preset(name).model, dataclasses.replace(preset(name).train, **changes), data, run, device=CPU)
    return run


def tuned(origin, data, run, **changes):
    """A run that starts from another, as the command resolves it."""
    opened = Origin.open(origin)
    tiny = preset("tiny-stylegan2" if opened.preset.endswith("stylegan2") else "tiny")
    model, train = resolve(tiny, data, changes, opened)
    assert fit(model, train, data, run, device=CPU, origin=opened)
    return run


def different(one, other, suffix=""):
    """Names of the weights that are not the same to float32's rounding."""
    mine, theirs = load_file(one), load_file(other)
    assert mine.keys() == theirs.keys()
    return [name for name in mine if name.endswith(suffix) and not torch.allclose(mine[name], theirs[name])]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_run_starts_from_the_weights_of_another_with_new_optimisers(backbone, make_prepared, tmp_path):
    origin = trained(PreparedDataset.open(make_prepared()), tmp_path / "origin", backbone)
    data = PreparedDataset.open(make_prepared("mine", count=12))
    run = tuned(origin, data, tmp_path / "run", **SLOW)
    for network in ("generator", "discriminator"):
        file = f"{network}.safetensors"
        assert different(origin / file, run / file, "weight") == []
    state = load_file(list_checkpoints(run / "checkpoints")[-1])
    assert {state[name].item() for name in state if name.endswith(".step")} == {1.0}


def test_config_json_says_where_the_weights_came_from_and_what_binds_them(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    origin = trained(data, tmp_path / "origin")
    config = json.loads((origin / "config.json").read_text())
    licence = {"weights": "CC-BY-NC-4.0", "notice": "of others"}
    (origin / "config.json").write_text(json.dumps(config | {"licence": licence}))
    run = tuned(origin, data, tmp_path / "run", total_images=8)
    described = json.loads((run / "config.json").read_text())
    hashes = {
        name: hashlib.sha256((origin / f"{name}.safetensors").read_bytes()).hexdigest()
        for name in ("generator", "discriminator")
    }
    assert described["origin"] == {"path": str(origin), "name": "origin", **hashes}
    assert described["licence"] == licence
    mine = {"weights": "agreed with them", "notice": ""}
    (run / "config.json").write_text(json.dumps(described | {"licence": mine}))
    tuned(origin, data, run, total_images=16)
    assert json.loads((run / "config.json").read_text())["licence"] == mine


def test_weights_without_a_discriminator_get_a_new_one(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    origin = trained(data, tmp_path / "origin")
    judge = shutil.move(origin / "discriminator.safetensors", tmp_path / "judge.safetensors")
    assert "its discriminator is new" in Origin.open(origin).words(preset("tiny").model)
    run = tuned(origin, data, tmp_path / "run", **SLOW)
    assert different(origin / "generator.safetensors", run / "generator.safetensors", "weight") == []
    assert different(judge, run / "discriminator.safetensors", "weight")
    assert json.loads((run / "config.json").read_text())["origin"]["discriminator"] is None


def test_other_pictures_become_the_centre_of_what_the_generator_tells_apart(make_prepared, tmp_path):
    model = dataclasses.replace(preset("tiny").model, instance_gain=10.0)
    train = dataclasses.replace(preset("tiny").train, total_images=16)
    fit(model, train, PreparedDataset.open(make_prepared()), tmp_path / "origin", device=CPU)
    data = PreparedDataset.open(make_prepared("mine", count=12))
    centre = torch.from_numpy(data.embeddings.mean(0))[None]
    far, near = (
        generator.condition(1, centre, None)
        for generator in (
            load_generator(tmp_path / "origin"),
            load_generator(tuned(tmp_path / "origin", data, tmp_path / "run", **SLOW)),
        )
        if isinstance(generator, Generator)
    )
    assert near.norm() < 0.01 * far.norm()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_fine_tuning_that_was_stopped_ends_bit_equal_to_one_that_was_not(backbone, make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    origin = trained(data, tmp_path / "origin", backbone)
    whole = tuned(origin, data, tmp_path / "whole", total_images=64, freeze_generator=1)
    for total in (32, 64):
        parts = tuned(origin, data, tmp_path / "parts", total_images=total, freeze_generator=1)
    for network in ("generator", "discriminator"):
        one, two = (load_file(run / f"{network}.safetensors") for run in (whole, parts))
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_frozen_blocks_keep_their_weights_while_the_others_learn(backbone, make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    origin = trained(data, tmp_path / "origin", backbone)
    run = tuned(origin, data, tmp_path / "run", freeze_generator=1, freeze_discriminator=1)
    for network, first, then in (
        ("generator", ("linear.", "blocks.0.", "synthesis.b4."), ("blocks.1.", "synthesis.b8.")),
        ("discriminator", ("blocks.0.", "b32."), ("blocks.1.", "b16.")),
    ):
        moved = different(origin / f"{network}.safetensors", run / f"{network}.safetensors", "weight")
        assert not [name for name in moved if name.startswith(first)]
        assert [name for name in moved if name.startswith(then)]


def test_pictures_embedded_by_another_encoder_are_refused_in_one_line(make_prepared, tmp_path):
    origin = trained(PreparedDataset.open(make_prepared()), tmp_path / "origin")
    for name, differs in (("other", {"encoder": "b"}), ("wide", {"embedding_dim": 24})):
        data = PreparedDataset.open(make_prepared(name, **differs))
        with pytest.raises(ConfigError, match=r"takes embeddings of random \(16 numbers.*prepare") as refused:
            tuned(origin, data, tmp_path / "run")
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_converted_weights_without_their_encoder_say_how_to_get_it(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    origin = trained(data, tmp_path / "origin")
    config = json.loads((origin / "config.json").read_text())
    config["encoder"] = {"name": "resnet50", "sha256": None, "input_size": 224, "embedding_dim": 16}
    (origin / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="convert it again with --encoder FILE"):
        tuned(origin, data, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ch": 8}, "--set ch: the weights of --from .* have 4, which cannot change"),
        ({"freeze_generator": 3}, "freeze_generator is 3: the generator has 3 blocks, freeze fewer"),
        ({"freeze_generator": -1}, "freeze_generator is -1"),
        ({"discriminator": "projected", "freeze_discriminator": 1}, "'projected' judges frozen features"),
    ],
)
def test_what_does_not_fit_the_weights_is_refused(settings, message, make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    origin = trained(data, tmp_path / "origin")
    with pytest.raises(ConfigError, match=message):
        tuned(origin, data, tmp_path / "run", **settings)


def test_labels_of_other_classes_are_refused(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared(labels=[0, 1] * 20, class_count=2))
    model = dataclasses.replace(preset("tiny").model, class_count=2)
    fit(model, dataclasses.replace(preset("tiny").train, total_images=8), data, tmp_path / "run", device=CPU)
    others = PreparedDataset.open(make_prepared("others", labels=[0, 1, 2, 3] * 10))
    with pytest.raises(ConfigError, match=r"knows 2 classes, .*others has 4"):
        tuned(tmp_path / "run", others, tmp_path / "tuned")
    with pytest.raises(ConfigError, match=r"takes labels, .*bare has none"):
        tuned(tmp_path / "run", PreparedDataset.open(make_prepared("bare")), tmp_path / "tuned")


def test_a_run_goes_on_only_from_the_weights_that_it_began_with(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    origin = trained(data, tmp_path / "origin")
    run = tuned(origin, data, tmp_path / "run", total_images=8)
    with pytest.raises(ConfigError, match=r"was started --from .*origin .*say so again"):
        trained(data, run)
    trained(data, origin, total_images=32)
    with pytest.raises(ConfigError, match="with the same weights there"):
        tuned(origin, data, run, total_images=16)
    with pytest.raises(ConfigError, match="was started without --from"):
        tuned(run, data, origin, total_images=48)


def test_with_a_ramp_a_short_run_shows_what_it_learnt_and_not_what_it_began_with(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    origin = trained(data, tmp_path / "origin")
    begun = load_file(origin / "generator.safetensors")["linear.weight"]
    kept = {}
    for ramp in (0.0, 0.15):
        changes = {"ema_decay": 0.999, "ema_start": 0, "ema_rampup": ramp, "total_images": 80}
        run = tuned(origin, data, tmp_path / f"run{ramp}", **changes)
        state = load_file(list_checkpoints(run / "checkpoints")[-1])
        now, average = state["generator.linear.weight"], state["average.linear.weight"]
        kept[ramp] = ((average - now).norm() / (begun - now).norm()).item()
    assert kept[0.0] > 0.9
    assert kept[0.15] < 0.3
