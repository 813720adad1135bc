import pytest
import torch

from icgan_training.errors import ConfigError
from icgan_training.networks.discriminator import Discriminator
from icgan_training.networks.generator import Generator
from icgan_training.networks.presets import PRESETS, preset
from icgan_training.networks.stylegan2.train import StyleGAN2TrainConfig

# Millions of parameters of G and D as published; the class table of models without classes counts there.
PUBLISHED_SIZES = {
    "icgan-imagenet-64": (36.66, 21.65),
    "cc-icgan-imagenet-64": (37.87, 21.11),
    "icgan-imagenet-128": (77.16, 89.59),
    "cc-icgan-imagenet-128": (79.05, 88.79),
    "icgan-imagenet-256-half": (42.86, 45.52),
    "cc-icgan-imagenet-256-half": (44.38, 44.98),
    "icgan-imagenet-256": (90.01, 100.84),
    "cc-icgan-imagenet-256": (92.30, 100.03),
    "icgan-coco-128": (22.27, 23.19),
    "icgan-coco-256": (25.86, 26.00),
    "cc-icgan-imagenetlt-128": (38.07, 39.99),
}


# The published configuration files, one a line: pixels, ch, attention, what the model takes, k, encoder;
# batch per GPU, GPUs, accumulation; D steps for each of G; learning rates of G and D; mirrored pictures,
# mirrored instances, DiffAugment.
PUBLISHED = """
biggan-coco-128            128 48 64 label    0  -                     64  4 1 2 1e-4 4e-4 y - translation
biggan-coco-256            256 48 64 label    0  -                     16 16 1 2 1e-4 1e-4 y - translation
icgan-coco-128             128 48 64 instance 5  SwAV                  64  4 1 1 1e-4 4e-4 y y translation
icgan-coco-256             256 48 64 instance 5  SwAV                  16 16 1 1 1e-4 1e-4 y y translation
biggan-imagenetlt-128      128 64 64 label    0  -                     64  2 1 2 1e-4 1e-4 y - translation
biggan-imagenetlt-256      256 64 64 label    0  -                     16  8 1 2 1e-4 1e-4 y - translation
biggan-imagenetlt-64        64 64 32 label    0  -                    128  1 1 1 1e-5 1e-3 y - translation
cc-icgan-imagenetlt-128    128 64 64 both     5  classifier-balancing  64  2 1 2 1e-4 1e-4 y - translation
cc-icgan-imagenetlt-256    256 64 64 both     5  classifier-balancing  16  8 1 2 1e-4 1e-4 y - translation
cc-icgan-imagenetlt-64      64 64 32 both     5  classifier-balancing 128  1 1 1 1e-5 1e-3 y - translation
biggan-imagenet-128        128 96 64 label    0  -                     64 32 1 1 1e-4 4e-4 y - -
biggan-imagenet-256-half   256 64 64 label    0  -                     16 32 4 1 1e-4 4e-4 - - -
biggan-imagenet-64          64 64 32 label    0  -                    256  1 1 1 1e-4 1e-4 y - -
icgan-imagenet-128         128 96 64 instance 50 SwAV                  64 32 1 1 4e-5 1e-4 y y -
icgan-imagenet-256         256 96 64 instance 50 SwAV                  16 32 4 1 4e-5 1e-4 y - -
icgan-imagenet-256-half    256 64 64 instance 50 SwAV                  16 32 4 2 1e-4 1e-4 y y -
icgan-imagenet-64           64 64 32 instance 50 SwAV                 256  1 1 1 1e-4 1e-4 y y -
cc-icgan-imagenet-128      128 96 64 both     50 classification        64 32 1 1 4e-5 1e-4 y y -
cc-icgan-imagenet-256      256 96 64 both     50 classification        16 32 4 1 4e-5 1e-4 y - -
cc-icgan-imagenet-256-half 256 64 64 both     50 classification        16 32 4 2 1e-4 1e-4 y y -
cc-icgan-imagenet-64        64 64 32 both     50 classification       256  1 1 1 1e-4 1e-4 y y -
"""
ROWS = [line.split() for line in PUBLISHED.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_published_preset_has_the_published_settings(row):
    (
        name,
        side,
        ch,
        attention,
        takes,
        k,
        encoder,
        per_gpu,
        gpus,
        accumulation,
        steps,
        lr_g,
        lr_d,
        *switches,
    ) = row
    found = preset(name)
    model, train = found.model, found.train
    assert (model.resolution, model.ch, model.attention) == (int(side), int(ch), (int(attention),))
    assert (model.shared_dim, model.dim_z, model.hierarchical) == (128, 120, True)
    assert model.takes_embedding == (takes in ("instance", "both"))
    if model.takes_embedding:
        assert (model.shared_dim_feat, model.embedding_dim) == (512, 2048)
    classes = 1 if "coco" in name else 1000  # the unconditional baseline is told one constant label
    assert model.class_count == (classes if takes in ("label", "both") else None)
    assert (found.neighbours, found.encoder) == (int(k), None if encoder == "-" else encoder)
    assert train.batch_size == int(per_gpu) * int(gpus) * int(accumulation)
    assert (train.accumulation, train.discriminator_steps) == (int(accumulation), int(steps))
    assert (train.generator_lr, train.discriminator_lr) == (float(lr_g), float(lr_d))
    mirrored, mirrored_instances, diffaugment = switches
    assert (train.picture_flip, train.instance_flip) == (mirrored == "y", mirrored_instances == "y")
    assert train.diffaugment == (() if diffaugment == "-" else (diffaugment,))
    assert (train.beta1, train.beta2, train.adam_eps) == (0.0, 0.999, 1e-6)
    assert (train.ema_decay, train.ema_start) == (0.9999, 20_000)
    assert not train.long_tail  # nor do the files of ImageNet-LT balance its classes


def millions(network):
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_published_presets_have_the_published_sizes(name):
    model = preset(name).model
    with torch.device("meta"):
        sizes = millions(Generator(model)), millions(Discriminator(model))
    unused_table = 0 if model.class_count else 1000 * 128 / 1e6
    assert (sizes[0] + unused_table, sizes[1]) == pytest.approx(PUBLISHED_SIZES[name], abs=0.006)


def test_every_published_configuration_has_a_preset():
    biggan = [name for name in PRESETS if "stylegan2" not in name]
    published = [name for name in biggan if name.startswith(("icgan", "cc-", "biggan"))]
    assert sorted(published) == sorted(row[0] for row in ROWS)


def test_presets_describe_themselves():
    for name, row in PRESETS.items():
        assert row.name == name
        assert row.summary
        assert (row.neighbours > 0) == row.model.takes_embedding


def test_a_mistyped_preset_suggests_the_right_one():
    with pytest.raises(ConfigError, match="did you mean cifar10"):
        preset("cifar")


@pytest.mark.parametrize(
    ("name", "rate", "gamma", "batch", "half_life"),
    [
        ("icgan-stylegan2-coco-128", 0.0025, 0.05, 64, 20_000),
        ("icgan-stylegan2-coco-256", 0.003, 0.5, 32, 10_000),
        ("stylegan2-coco-128", 0.0025, 0.05, 64, 20_000),
        ("stylegan2-coco-256", 0.002, 0.2, 32, 10_000),
    ],
)
def test_every_published_stylegan2_configuration_has_a_preset(name, rate, gamma, batch, half_life):
    row = preset(name)
    assert isinstance(row.train, StyleGAN2TrainConfig)
    assert (row.train.generator_lr, row.train.discriminator_lr, row.train.r1_gamma) == (rate, rate, gamma)
    assert (row.train.batch_size, row.train.ema_images, row.train.total_images) == (batch, half_life, 10**8)
    assert (row.model.takes_embedding, row.train.instance_flip) == (name.startswith("icgan"),) * 2
    assert row.encoder == ("SwAV" if name.startswith("icgan") else None)
