"""What the networks of a new run begin with: numbers of chance, or the weights of another run."""

import numpy as np
import torch
from torch import Tensor, nn

from icgan_training.data.dataset import PreparedDataset, read_rows
from icgan_training.fit.origin import Origin
from icgan_training.fit.step import Trainer
from icgan_training.fit.stylegan2_step import StyleGAN2Trainer
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.discriminator import Discriminator
from icgan_training.networks.encoder import load_encoder
from icgan_training.networks.generator import Generator
from icgan_training.networks.projected import ProjectedDiscriminator

CENTRE_ROWS = 20_000
"""Instances that the centre of the embeddings is taken from."""


def start(networks: Trainer | StyleGAN2Trainer, data: PreparedDataset, origin: Origin | None) -> None:
    """Fill the networks of a new run, and let the average be a copy of the generator."""
    generator, discriminator = networks.generator, networks.discriminator
    if origin is not None:
        origin.fill(generator, discriminator)
    if isinstance(discriminator, ProjectedDiscriminator):
        discriminator.adopt(load_encoder(data.encoder_path), _embeddings(data, discriminator))
    elif isinstance(discriminator, Discriminator) and _gains(discriminator.config):
        _centre(discriminator, data)
    if isinstance(generator, Generator):
        # from weights too: other pictures lie elsewhere, and far from their centre all instances look alike
        projected = origin is None and isinstance(discriminator, ProjectedDiscriminator)
        if _gains(generator.config) or (projected and generator.config.takes_embedding):
            _centre(generator, data)
    networks.average.module.load_state_dict(generator.state_dict())


def _gains(config: ModelConfig) -> bool:
    """Whether networks of this shape are centred on their instances; the published ones, gain 1, are not.

    Nor is StyleGAN2, which brings every embedding to one length.
    """
    return config.takes_embedding and config.instance_gain != 1


def _centre(network: Generator | Discriminator, data: PreparedDataset) -> None:
    network.centre_instances(_embeddings(data, network).mean(0))


def _embeddings(data: PreparedDataset, network: nn.Module) -> Tensor:
    """Evenly spread instances [N, D] on the network's device."""
    rows = np.linspace(0, data.meta.count - 1, min(data.meta.count, CENTRE_ROWS)).astype(np.int64)
    return torch.from_numpy(read_rows(data.embeddings, rows)).to(next(network.parameters()).device)
