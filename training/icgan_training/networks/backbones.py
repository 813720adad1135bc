"""Which backbone a model has: its config names it, its networks follow from the config.

A config without a `backbone` is of BigGAN: what was written before there were two.
"""

from __future__ import annotations

from typing import Any

from icgan_training.errors import ConfigError
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.discriminator import Discriminator
from icgan_training.networks.generator import Generator
from icgan_training.networks.projected import ProjectedDiscriminator
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.discriminator import StyleGAN2Discriminator
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator

AnyConfig = ModelConfig | StyleGAN2Config
AnyGenerator = Generator | StyleGAN2Generator
AnyDiscriminator = Discriminator | ProjectedDiscriminator | StyleGAN2Discriminator

BACKBONES = ("biggan", "stylegan2")


def backbone_of(config: AnyConfig) -> str:
    """One of BACKBONES."""
    return "stylegan2" if isinstance(config, StyleGAN2Config) else "biggan"


def config_from_dict(data: dict[str, Any]) -> AnyConfig:
    """What either config's `to_dict` wrote. Raises ConfigError."""
    backbone = data.get("backbone", "biggan") if isinstance(data, dict) else "biggan"
    if backbone not in BACKBONES:
        raise ConfigError(f"backbone is {backbone!r}; choose from {', '.join(BACKBONES)}")
    return StyleGAN2Config.from_dict(data) if backbone == "stylegan2" else ModelConfig.from_dict(data)


def make_generator(config: AnyConfig) -> AnyGenerator:
    """A new generator of this shape."""
    return StyleGAN2Generator(config) if isinstance(config, StyleGAN2Config) else Generator(config)


def make_discriminator(config: AnyConfig) -> AnyDiscriminator:
    """A new discriminator of this shape and kind."""
    if isinstance(config, StyleGAN2Config):
        return StyleGAN2Discriminator(config)
    return ProjectedDiscriminator(config) if config.discriminator == "projected" else Discriminator(config)
