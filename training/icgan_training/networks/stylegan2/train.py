"""How a StyleGAN2 is trained: what BigGAN's settings have not."""

from __future__ import annotations

from dataclasses import dataclass

from icgan_training.errors import ConfigError
from icgan_training.networks.config import TrainConfig


@dataclass(frozen=True)
class StyleGAN2TrainConfig(TrainConfig):
    """Settings with the defaults that the published StyleGAN2 configurations share.

    Raises `ConfigError` on construction when a value is out of range.
    """

    beta2: float = 0.99
    adam_eps: float = 1e-8
    ema_start: int = 0  # the ramp replaces it
    r1_gamma: float = 0.05  # weight of the gradient penalty on real pictures; 0: none
    r1_interval: int = 16  # it is taken every so many steps, with a weight as much larger
    path_weight: float = 2.0  # of the path length penalty; 0: none
    path_interval: int = 4
    path_shrink: int = 2  # it is taken on batch_size / so many pictures
    style_mixing: float = 0.9  # probability that a picture has the latents of two noises
    ema_images: int = 20_000  # half-life of the average ...
    ema_rampup: float = 0.05  # ... or this share of the pictures seen, where that is less
    ada_target: float = 0.0  # mean sign of D on real pictures that p aims at; 0: no augmentation
    ada_images: int = 500_000  # pictures over which its probability could go from 0 to 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("r1_gamma", "path_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("style_mixing", "ada_target"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        for name in ("r1_interval", "path_interval", "path_shrink", "ema_images", "ada_images"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.discriminator_steps != 1:
            raise ConfigError("discriminator_steps is for BigGAN; StyleGAN2 takes one for each of G")
