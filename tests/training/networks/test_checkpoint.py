import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from icgan_training.errors import WeightsError
from icgan_training.networks.checkpoint import load_discriminator, load_generator, save_weights
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.discriminator import Discriminator
from icgan_training.networks.generator import Generator
from icgan_training.networks.presets import preset

TINY = preset("tiny").model


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return Generator(TINY).eval()


def inputs():
    return torch.randn(3, TINY.dim_z), torch.nn.functional.normalize(torch.randn(3, 16), dim=1)


def test_a_saved_generator_comes_back_in_eval_mode_with_the_same_pictures(generator, tmp_path):
    save_weights(generator, tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path)
    assert loaded.config == TINY
    assert not loaded.training
    noise, embedding = inputs()
    assert torch.equal(loaded(noise, embedding), generator(noise, embedding))


def test_weights_that_lie_otherwise_in_memory_are_stored_as_the_same_numbers(generator, tmp_path):
    for parameter in generator.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        elif parameter.dim() == 2:
            parameter.data = parameter.data.T.contiguous().T
    save_weights(generator, tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in generator.state_dict().items())


def test_a_loaded_generator_can_be_trained_further(generator, tmp_path):
    save_weights(generator, tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path).train()
    loaded(*inputs()).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_half_precision_halves_the_file_and_hardly_moves_the_pictures(generator, tmp_path):
    save_weights(generator, tmp_path / "float32" / "generator.safetensors")
    save_weights(generator, tmp_path / "half" / "generator.safetensors", half=True)
    sizes = {p.parent.name: p.stat().st_size for p in tmp_path.rglob("*.safetensors")}
    assert sizes["half"] < 0.65 * sizes["float32"]
    loaded = load_generator(tmp_path / "half")
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state_dict().values())
    noise, embedding = inputs()
    assert (loaded(noise, embedding) - generator(noise, embedding)).abs().max() < 0.01


def test_half_precision_refuses_values_it_cannot_hold(generator, tmp_path):
    with torch.no_grad():
        generator.linear.weight[0, 0] = 1e5
    with pytest.raises(WeightsError, match=r"linear\.weight"):
        save_weights(generator, tmp_path / "generator.safetensors", half=True)
    assert not list(tmp_path.iterdir())


def test_missing_unexpected_and_misshapen_keys_are_all_named(generator, tmp_path):
    path = tmp_path / "generator.safetensors"
    save_weights(generator, path)
    tensors = load_file(path)
    tensors["extra"] = tensors.pop("linear.u0")
    tensors["linear.bias"] = tensors["linear.bias"][:-1].clone()
    config = {"schema_version": 1, "network": "generator", "model": TINY.to_dict()}
    save_file(tensors, path, {"config": json.dumps(config)})
    with pytest.raises(WeightsError, match=r"missing linear\.u0; unexpected extra; linear\.bias is \[127\]"):
        load_generator(tmp_path)


def test_a_discriminator_is_not_taken_for_a_generator(tmp_path):
    save_weights(Discriminator(TINY), tmp_path / "generator.safetensors")
    with pytest.raises(WeightsError, match="holds a discriminator, not a generator"):
        load_generator(tmp_path)


def test_a_discriminator_comes_back_with_the_same_scores(tmp_path):
    discriminator = Discriminator(TINY).eval()
    save_weights(discriminator, tmp_path / "discriminator.safetensors")
    image, (_, embedding) = torch.randn(3, 3, 32, 32), inputs()
    assert torch.equal(load_discriminator(tmp_path)(image, embedding), discriminator(image, embedding))


def test_a_truncated_file_is_refused(generator, tmp_path):
    path = tmp_path / "generator.safetensors"
    save_weights(generator, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        load_generator(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        load_generator(tmp_path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "generator.safetensors")
    with pytest.raises(WeightsError, match="carries no config"):
        load_generator(tmp_path)


def test_a_full_disk_leaves_the_old_file_as_it_was(generator, tmp_path, monkeypatch):
    path = tmp_path / "generator.safetensors"
    save_weights(generator, path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(WeightsError, match="No space left"):
        save_weights(Generator(ModelConfig(32, 4, embedding_dim=16)), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
