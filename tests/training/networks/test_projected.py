"""The projected discriminator: frozen features, instance projection, and a run that trains with it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.fit.loop import fit
from icgan_training.fit.resume import list_checkpoints
from icgan_training.networks.checkpoint import load_discriminator, load_generator, save_weights
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.efficientnet import EfficientNetLite0
from icgan_training.networks.encoder import EncoderConfig, load_encoder, random_encoder
from icgan_training.networks.generator import Generator
from icgan_training.networks.presets import preset
from icgan_training.networks.projected import ProjectedDiscriminator

TINY = preset("tiny")
MODEL = dataclasses.replace(TINY.model, discriminator="projected")
CPU = torch.device("cpu")


def judged(config: ModelConfig, encoder_file: Path) -> ProjectedDiscriminator:
    torch.manual_seed(0)
    discriminator = ProjectedDiscriminator(config)
    embeddings = F.normalize(torch.rand(20, config.embedding_dim or 1), dim=1)
    discriminator.adopt(load_encoder(encoder_file), embeddings)
    return discriminator


def inputs(config: ModelConfig, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    image = torch.rand(count, 3, config.resolution, config.resolution) * 2 - 1
    return image, F.normalize(torch.rand(count, config.embedding_dim or 1), dim=1)


@pytest.mark.parametrize(("resolution", "judged_side"), [(32, 96), (64, 128), (128, 128)])
def test_every_scale_scores_one_place_per_32_pixels_judged(encoder_file, resolution, judged_side):
    config = ModelConfig(resolution, ch=2, embedding_dim=16, discriminator="projected")
    places = (judged_side // 32) ** 2
    assert judged(config, encoder_file)(*inputs(config)).shape == (3, 4 * places)


def test_the_stages_are_those_of_the_encoder(encoder_file):
    encoder = load_encoder(encoder_file)
    discriminator = judged(MODEL, encoder_file).eval()
    image = torch.rand(2, 3, 128, 128) * 2 - 1
    mean, std, backbone = encoder.mean, encoder.std, encoder.backbone
    assert isinstance(backbone, EfficientNetLite0)
    with torch.no_grad():
        expected = backbone.blocks(backbone.stem(((image + 1) / 2 - mean) / std))
        found = discriminator._stages(image)[-1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_instance_changes_the_score_and_so_does_the_picture(encoder_file):
    discriminator = judged(MODEL, encoder_file).eval()
    image, embedding = inputs(MODEL)
    with torch.no_grad():
        score = discriminator(image, embedding)
        assert (discriminator(image, embedding.flip(0)) - score)[0].abs().max() > 1e-3
        assert (discriminator(image.flip(0), embedding) - score)[0].abs().max() > 1e-3


def test_the_picture_receives_a_gradient_and_the_features_none(encoder_file):
    discriminator = judged(MODEL, encoder_file)
    image, embedding = inputs(MODEL)
    image.requires_grad_(True)
    discriminator(image, embedding).mean().backward()
    assert image.grad is not None
    assert (image.grad.abs().amax((1, 2, 3)) > 0).all()
    assert all(weight.grad is None for weight in discriminator.features.parameters())
    assert all(weight.grad is not None for weight in discriminator.heads.parameters())


def test_the_weights_file_holds_the_features_too(encoder_file, tmp_path):
    discriminator = judged(MODEL, encoder_file).eval()
    save_weights(discriminator, tmp_path / "discriminator.safetensors")
    again = load_discriminator(tmp_path)
    with torch.no_grad():
        found, expected = again(*inputs(MODEL)), discriminator(*inputs(MODEL))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)  # in another memory layout


def test_features_of_another_encoder_are_refused():
    other = EncoderConfig("resnet50", 2048, 64, (0.5,) * 3, (0.2,) * 3)
    with pytest.raises(ConfigError, match="needs the features of efficientnet-lite0, not of resnet50"):
        ProjectedDiscriminator(MODEL).adopt(random_encoder(other), torch.zeros(1, 16))


def test_a_run_trains_the_heads_only_and_goes_on_exactly_where_it_stopped(
    make_prepared, encoder_file, tmp_path
):
    folder = make_prepared()
    (folder / "encoder.safetensors").write_bytes(encoder_file.read_bytes())
    data = PreparedDataset.open(folder)
    train = dataclasses.replace(TINY.train, total_images=16, tick_images=8, checkpoints_kept=9)
    fit(MODEL, train, data, tmp_path / "whole", device=CPU)
    for total in (8, 16):
        fit(MODEL, dataclasses.replace(train, total_images=total), data, tmp_path / "parts", device=CPU)
    whole, parts = (load_file(tmp_path / run / "discriminator.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    first, last = (
        {name: tensor for name, tensor in load_file(path).items() if name.startswith("discriminator.")}
        for path in (list_checkpoints(tmp_path / "whole" / "checkpoints")[i] for i in (0, -1))
    )
    moved = {name.split(".")[1] for name in first if not torch.equal(first[name], last[name])}
    assert moved == {"heads"}
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["model"]["discriminator"] == "projected"


def test_a_generator_starts_centred_on_its_instances_and_its_gain_is_in_the_weights(tmp_path):
    torch.manual_seed(0)
    config = dataclasses.replace(TINY.model, instance_gain=5.0)
    generator = Generator(config)
    embeddings = F.normalize(torch.rand(30, 16), dim=1)
    generator.centre_instances(embeddings.mean(0))
    condition = generator.condition(30, embeddings, None)
    assert condition.mean(0).abs().max() < 1e-5
    singular = np.linalg.svd(generator.shared_feat.normalised_weight().detach().numpy(), compute_uv=False)
    assert singular[0] == pytest.approx(5, rel=1e-3)
    save_weights(generator.eval(), tmp_path / "generator.safetensors")
    read = load_generator(tmp_path)
    assert isinstance(read, Generator)
    assert torch.equal(read.condition(30, embeddings, None), generator.condition(30, embeddings, None))
