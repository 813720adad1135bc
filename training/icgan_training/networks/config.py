"""What a model is and how it is trained: two frozen dataclasses, readable without torch.

`ModelConfig` travels inside every weights file, so a file rebuilds its own model. Channel tables,
the noise split and the conditioning follow IC-GAN (Casanova et al. 2021) on BigGAN (Brock et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from icgan_training.errors import ConfigError
from icgan_training.networks.fields import check_positive, check_types, from_dict, to_dict

Conditioning = Literal["instance", "class+instance", "class", "unconditional"]
LabelSource = Literal["dataset", "clusters"]
DiscriminatorKind = Literal["pixels", "projected"]
Precision = Literal["float32", "bfloat16"]

DIFFAUGMENT_POLICIES = ("color", "translation", "cutout")  # in the order in which they are applied

# Width of the generator, in units of `ch`: the 4x4 input, then every block's output (BigGAN appendix B).
GENERATOR_MULTIPLIERS = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
# Width of every discriminator block's output, in units of `ch`.
DISCRIMINATOR_MULTIPLIERS = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    # none is published: the generator's turned round, as those of 128 and 256 are
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}


class Conditions(Protocol):
    """What every backbone's config says about what a model is conditioned on."""

    @property
    def embedding_dim(self) -> int | None:
        """Width of the instance embedding; None = the model takes no instance."""

    @property
    def class_count(self) -> int | None:
        """Number of classes; None = no label."""

    @property
    def takes_embedding(self) -> bool:
        """Whether the model is conditioned on an instance."""

    @property
    def takes_label(self) -> bool:
        """Whether the caller chooses a class."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of one generator and its discriminator.

    Raises `ConfigError` on construction when the fields do not describe a model.
    """

    resolution: int  # side of the square pictures: 32, 64, 128, 256 or 512
    ch: int  # channel unit that the multiplier tables scale
    attention: tuple[int, ...] = ()  # self-attention follows the blocks whose output has one of these sides
    dim_z: int = 120
    hierarchical: bool = True  # noise cut into one piece for the 4x4 input and one for each block
    shared_dim: int = 128  # width of the class embedding in the generator
    shared_dim_feat: int = 512  # width the instance embedding is projected to in the generator
    # spectral norm of that projection and of a pixel discriminator's; the published networks have 1, others
    # start centred on the data
    instance_gain: float = 1.0
    embedding_dim: int | None = 2048  # instance embedding; None = the model takes no instance
    class_count: int | None = None  # None = no label; 1 = unconditional baseline, constant label 0
    generator_multipliers: tuple[int, ...] | None = None  # None = the table above
    discriminator_multipliers: tuple[int, ...] | None = None  # None = the table above
    discriminator: DiscriminatorKind = "pixels"  # the published one, or "projected" on pretrained features
    # a learnt constant [3, R, R] added before the output's tanh: where `icgan-train mark` puts its key
    output_map: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if self.resolution not in GENERATOR_MULTIPLIERS:
            raise ConfigError(f"resolution is {self.resolution}; choose 32, 64, 128, 256 or 512")
        check_positive(self, "ch", "dim_z", "shared_dim", "shared_dim_feat", "embedding_dim", "class_count")
        sides = self.block_resolutions
        for side in self.attention:
            if side not in sides:
                raise ConfigError(
                    f"attention at {side} px: the blocks end at {', '.join(map(str, sides))} px"
                )
        if self.embedding_dim is None and self.class_count is None:
            raise ConfigError(
                "embedding_dim and class_count are both null; an unconditional model has class_count 1"
            )
        if len(self.generator_widths) != len(sides) + 1:
            raise ConfigError(
                f"generator_multipliers has {len(self.generator_widths)} entries;"
                f" {self.resolution} px needs {len(sides) + 1} (the input and {len(sides)} blocks)"
            )
        if len(self.discriminator_widths) <= self.downsamplings:
            raise ConfigError(
                f"discriminator_multipliers has {len(self.discriminator_widths)} entries;"
                f" {self.resolution} px needs at least {self.downsamplings + 1}"
            )
        if min(*self.generator_widths, *self.discriminator_widths) < 1:
            raise ConfigError("generator_multipliers and discriminator_multipliers must be positive")
        if self.hierarchical and self.dim_z < len(sides) + 1:
            raise ConfigError(f"dim_z is {self.dim_z}; hierarchical noise needs at least {len(sides) + 1}")
        if self.conditioning == "class+instance" and self.discriminator_widths[-1] % 2:
            raise ConfigError("the last discriminator width must be even: class and instance take half each")

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """Side of each generator block's output, from 8 up to the resolution."""
        return tuple(2**power for power in range(3, self.resolution.bit_length()))

    @property
    def generator_widths(self) -> tuple[int, ...]:
        """Channels of the 4x4 input and of each generator block's output."""
        multipliers = self.generator_multipliers or GENERATOR_MULTIPLIERS[self.resolution]
        return tuple(self.ch * multiplier for multiplier in multipliers)

    @property
    def discriminator_widths(self) -> tuple[int, ...]:
        """Channels of each discriminator block's output."""
        multipliers = self.discriminator_multipliers or DISCRIMINATOR_MULTIPLIERS[self.resolution]
        return tuple(self.ch * multiplier for multiplier in multipliers)

    @property
    def downsamplings(self) -> int:
        """How many discriminator blocks, from the first, halve the picture: down to 4x4, at 32 px to 8x8."""
        return 2 if self.resolution == 32 else len(self.block_resolutions)

    @property
    def noise_chunk(self) -> int:
        """Noise columns that the 4x4 input and each block receive (all of them for the input when flat)."""
        return self.dim_z // (len(self.block_resolutions) + 1) if self.hierarchical else self.dim_z

    @property
    def noise_used(self) -> int:
        """Noise columns that reach the picture; wider noise is accepted and its tail ignored."""
        return self.noise_chunk * (len(self.block_resolutions) + 1) if self.hierarchical else self.dim_z

    @property
    def condition_dim(self) -> int:
        """Columns of the condition of a block: class embedding, instance embedding, noise piece."""
        label = self.shared_dim if self.class_count is not None else 0
        instance = self.shared_dim_feat if self.embedding_dim is not None else 0
        return label + instance + (self.noise_chunk if self.hierarchical else 0)

    @property
    def takes_embedding(self) -> bool:
        """Whether the model is conditioned on an instance."""
        return self.embedding_dim is not None

    @property
    def takes_label(self) -> bool:
        """Whether the caller chooses a class; the unconditional baseline's constant label is not a choice."""
        return self.class_count is not None and self.class_count > 1

    @property
    def conditioning(self) -> Conditioning:
        """The conditioning in one word."""
        if self.class_count is None:
            return "instance"
        if self.embedding_dim is not None:
            return "class+instance"
        return "class" if self.class_count > 1 else "unconditional"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back to an equal config."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Read what `to_dict` wrote. Raises `ConfigError` naming unknown, missing and mistyped fields."""
        return from_dict(cls, data)


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. The defaults are what all published configurations share.

    Raises `ConfigError` on construction when a value is out of range.
    """

    batch_size: int  # pictures in one optimiser step, over all processes and accumulations
    generator_lr: float
    discriminator_lr: float
    total_images: int  # stop after the discriminator has seen this many real pictures
    discriminator_steps: int = 1  # discriminator steps for each generator step
    accumulation: int = 1  # backward passes for each optimiser step; divides batch_size
    beta1: float = 0.0
    beta2: float = 0.999
    adam_eps: float = 1e-6
    ema_decay: float = 0.9999
    ema_start: int = 20_000  # generator steps during which the average is a plain copy
    ema_rampup: float = 0.0  # its half-life is at most this share of the steps so far; 0: no such bound
    diffaugment: tuple[str, ...] = ()  # any of color, translation, cutout
    picture_flip: bool = True  # DA(d): real pictures are mirrored at random
    instance_flip: bool = False  # DA(i): embeddings of mirrored instances are used at random
    neighbours: int | None = None  # k: the nearest so many of the prepared ones; None = all of them
    label_source: LabelSource = "dataset"  # or k-means clusters of the embeddings
    long_tail: bool = False  # instances drawn class-balanced instead of uniformly
    freeze_generator: int = 0  # so many of its lowest blocks stay as they are, those next to the noise
    freeze_discriminator: int = 0  # the same, those next to the picture
    seed: int = 0
    precision: Precision = "float32"  # bfloat16: autocast, master weights stay float32
    channels_last: bool = True
    compile: bool = False
    sync_batch_norm: bool = True  # batch statistics over all processes rather than per process
    tick_images: int = 20_000  # a log line every so many real pictures
    snapshot_ticks: int = 5  # a sample grid every so many ticks
    checkpoint_ticks: int = 5  # a resumable checkpoint every so many ticks
    checkpoints_kept: int = 2

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(
            self,
            "batch_size",
            "generator_lr",
            "discriminator_lr",
            "total_images",
            "discriminator_steps",
            "accumulation",
            "adam_eps",
            "neighbours",
            "tick_images",
            "snapshot_ticks",
            "checkpoint_ticks",
            "checkpoints_kept",
        )
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")
        for name in ("ema_start", "ema_rampup", "seed", "freeze_generator", "freeze_discriminator"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}"
            )
        for policy in self.diffaugment:
            if policy not in DIFFAUGMENT_POLICIES:
                raise ConfigError(
                    f"diffaugment has {policy!r}; choose from {', '.join(DIFFAUGMENT_POLICIES)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back to an equal config."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainConfig:
        """Read what `to_dict` wrote. Raises `ConfigError` naming unknown, missing and mistyped fields."""
        return from_dict(cls, data)
