"""Freezing: the layers of a trained network that stay as they are while the rest follows new pictures.

In the discriminator these are the layers next to the picture, which see what all pictures share (Mo, Cho and
Shin, "Freeze the Discriminator", 2020); in the generator those next to the noise, which lay out the picture.
"""

from torch import nn

from icgan_training.errors import ConfigError
from icgan_training.networks.backbones import AnyDiscriminator, AnyGenerator
from icgan_training.networks.config import TrainConfig
from icgan_training.networks.projected import ProjectedDiscriminator
from icgan_training.networks.stylegan2.discriminator import StyleGAN2Discriminator
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator


def freeze(generator: AnyGenerator, discriminator: AnyDiscriminator, train: TrainConfig) -> None:
    """Freeze as many of the lowest blocks of each network as `train` says.

    What turns instance, class and noise into the blocks' conditions goes on learning. Raises ConfigError
    where a network has no more blocks than that.
    """
    if train.freeze_discriminator and isinstance(discriminator, ProjectedDiscriminator):
        raise ConfigError(
            f"freeze_discriminator is {train.freeze_discriminator}: discriminator 'projected' judges frozen"
            " features as it is; leave it out"
        )
    for name, blocks, count in (
        ("generator", _of_generator(generator), train.freeze_generator),
        ("discriminator", _of_discriminator(discriminator), train.freeze_discriminator),
    ):
        if count and count >= len(blocks):
            raise ConfigError(f"freeze_{name} is {count}: the {name} has {len(blocks)} blocks, freeze fewer")
        for block in blocks[:count]:
            block.requires_grad_(False)
    if train.freeze_generator and not isinstance(generator, StyleGAN2Generator):
        generator.linear.requires_grad_(False)  # StyleGAN2's constant is part of its first block


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The weights that are not frozen."""
    return [weight for weight in network.parameters() if weight.requires_grad]


def _of_generator(generator: AnyGenerator) -> list[nn.Module]:
    if isinstance(generator, StyleGAN2Generator):
        return list(generator.synthesis.blocks())
    return list(generator.blocks)


def _of_discriminator(discriminator: AnyDiscriminator) -> list[nn.Module]:
    if isinstance(discriminator, ProjectedDiscriminator):
        return []
    if isinstance(discriminator, StyleGAN2Discriminator):
        return [
            *(discriminator.get_submodule(f"b{side}") for side in discriminator.halving),
            discriminator.b4,
        ]
    return list(discriminator.blocks)
