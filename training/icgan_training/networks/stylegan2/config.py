"""The shape of a StyleGAN2 IC-GAN, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from icgan_training.errors import ConfigError
from icgan_training.networks.config import Conditioning
from icgan_training.networks.fields import check_positive, check_types, from_dict, to_dict

SMALLEST_SIDE = 4  # of the learnt constant that the synthesis begins with


@dataclass(frozen=True)
class StyleGAN2Config:
    """One generator on the StyleGAN2 backbone (Karras et al. 2020, with the condition of IC-GAN) and its
    discriminator. The defaults are those of the published COCO weights.

    Raises `ConfigError` on construction when the fields do not describe a model.
    """

    resolution: int  # side of the square pictures, a power of two from 8 to 1024
    embedding_dim: int | None = 2048  # instance embedding; None = the model takes no instance
    class_count: int | None = None  # None = no label
    dim_z: int = 512
    dim_w: int = 512  # width of the latent that every layer's style is linear in
    channel_base: int = 16384  # a side of r pixels has channel_base / r channels ...
    channel_max: int = 512  # ... and at most so many
    mapping_layers: int = 2
    discriminator_mapping_layers: int = 8
    conv_clamp: float | None = 256.0  # what a layer gives is held within this magnitude
    half_sides: int = 4  # so many of the largest sides compute in FP16 where FP16 is asked for
    minibatch_group: int = 4  # pictures over which the discriminator measures variety
    backbone: Literal["stylegan2"] = "stylegan2"

    def __post_init__(self) -> None:
        check_types(self)
        if self.resolution not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise ConfigError(f"resolution is {self.resolution}; choose a power of two from 8 to 1024")
        check_positive(
            self,
            "embedding_dim",
            "class_count",
            "dim_z",
            "dim_w",
            "channel_base",
            "channel_max",
            "mapping_layers",
            "discriminator_mapping_layers",
            "conv_clamp",
            "minibatch_group",
        )
        if self.channel_base < self.resolution:
            raise ConfigError(
                f"channel_base is {self.channel_base}; {self.resolution} px needs at least that many"
            )
        if self.half_sides < 0:
            raise ConfigError(f"half_sides is {self.half_sides}; it must not be negative")

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides that blocks work at, from 4 up to the resolution."""
        return tuple(2**power for power in range(2, self.resolution.bit_length()))

    def channels(self, side: int) -> int:
        """Channels of a picture of this side inside both networks."""
        return min(self.channel_base // side, self.channel_max)

    def computes_half(self, side: int) -> bool:
        """Whether the published networks compute this side in FP16."""
        return side in self.sides[len(self.sides) - self.half_sides :] and side > SMALLEST_SIDE

    @property
    def latents(self) -> int:
        """How many rows of w the synthesis takes: one a convolution, one more for the last colours."""
        return 2 * len(self.sides)

    @property
    def noise_used(self) -> int:
        """Noise columns that reach the picture; wider noise is accepted and its tail ignored."""
        return self.dim_z

    @property
    def takes_embedding(self) -> bool:
        """Whether the model is conditioned on an instance."""
        return self.embedding_dim is not None

    @property
    def takes_label(self) -> bool:
        """Whether the caller chooses a class."""
        return self.class_count is not None and self.class_count > 1

    @property
    def conditions(self) -> int:
        """How many conditions the mapping network embeds: 0, 1 or 2."""
        return (self.embedding_dim is not None) + (self.class_count is not None)

    @property
    def conditioning(self) -> Conditioning:
        """The conditioning in one word."""
        if self.class_count is None:
            return "instance" if self.embedding_dim is not None else "unconditional"
        if self.embedding_dim is not None:
            return "class+instance"
        return "class" if self.class_count > 1 else "unconditional"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back to an equal config."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StyleGAN2Config:
        """Read what `to_dict` wrote. Raises `ConfigError` naming unknown, missing and mistyped fields."""
        return from_dict(cls, data)
