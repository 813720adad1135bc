"""What the networks of a new run begin with: numbers of chance, or the weights of another run."""

from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from icgan_training.data.dataset import PreparedDataset, read_rows
from icgan_training.fit.origin import Origin
from icgan_training.fit.step import Trainer
from icgan_training.fit.stylegan2_step import StyleGAN2Trainer
from icgan_training.networks.backbones import AnyDiscriminator, AnyGenerator
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.discriminator import Discriminator
from icgan_training.networks.encoder import load_encoder
from icgan_training.networks.generator import Generator
from icgan_training.networks.projected import ProjectedDiscriminator
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator

CENTRE_ROWS = 20_000
"""Instances that the centre of the embeddings is taken from."""


def start(networks: Trainer | StyleGAN2Trainer, data: PreparedDataset, origin: Origin | None) -> None:
    """Fill the networks of a new run, and let the average be a copy of the generator."""
    generator, discriminator = networks.generator, networks.discriminator
    judged = origin is not None and origin.fill(generator, discriminator)
    if not judged:
        _fit_discriminator(discriminator, data)
    if origin is None and _centred(generator, discriminator):
        _centre(generator, data)
    networks.average.module.load_state_dict(generator.state_dict())


def _fit_discriminator(discriminator: AnyDiscriminator, data: PreparedDataset) -> None:
    """Give a new discriminator what it takes from its data: the encoder's features, its instances' centre."""
    if isinstance(discriminator, ProjectedDiscriminator):
        discriminator.adopt(load_encoder(data.encoder_path), _embeddings(data, discriminator))
    elif isinstance(discriminator, Discriminator) and _gains(discriminator.config):
        _centre(discriminator, data)


def _centred(generator: AnyGenerator, discriminator: AnyDiscriminator) -> TypeGuard[Generator]:
    """Whether a new generator takes its instances' centre.

    The published networks, pixels and gain 1, do not; StyleGAN2 brings every embedding to one length.
    """
    if isinstance(generator, StyleGAN2Generator) or not generator.config.takes_embedding:
        return False
    return _gains(generator.config) or isinstance(discriminator, ProjectedDiscriminator)


def _gains(config: ModelConfig) -> bool:
    return config.takes_embedding and config.instance_gain != 1


def _centre(network: Generator | Discriminator, data: PreparedDataset) -> None:
    network.centre_instances(_embeddings(data, network).mean(0))


def _embeddings(data: PreparedDataset, network: nn.Module) -> Tensor:
    """Evenly spread instances [N, D] on the network's device."""
    rows = np.linspace(0, data.meta.count - 1, min(data.meta.count, CENTRE_ROWS)).astype(np.int64)
    return torch.from_numpy(read_rows(data.embeddings, rows)).to(next(network.parameters()).device)
