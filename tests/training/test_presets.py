import pytest
import torch

from icgan_training.discriminator import Discriminator
from icgan_training.errors import ConfigError
from icgan_training.generator import Generator
from icgan_training.presets import PRESETS, preset

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
    families = [name.rsplit("-", 1)[0] for name in PRESETS if name.startswith(("icgan", "cc-", "biggan"))]
    assert len(families) == 21


def test_presets_describe_themselves():
    for name, row in PRESETS.items():
        assert row.name == name
        assert row.summary
        assert (row.neighbours > 0) == row.model.takes_embedding


def test_a_mistyped_preset_suggests_the_right_one():
    with pytest.raises(ConfigError, match="did you mean cifar10"):
        preset("cifar")
