"""The networks whose features are compared: Inception of FID, and encoders."""

from pathlib import Path

import torch

from icgan_runtime.files import sha256_of_file
from icgan_runtime.identity import EncoderIdentity
from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.networks.encoder import fold_batch_norm, load_encoder
from icgan_training.networks.inception import load_inception
from icgan_training.score.features import FeatureNetwork


def inception_network(path: Path, device: torch.device) -> FeatureNetwork:
    """The FID Inception-v3 as a feature network."""
    return FeatureNetwork("inception", sha256_of_file(path), load_inception(path).to(device), device)


def conditioning_network(data: PreparedDataset, device: torch.device) -> FeatureNetwork:
    """The encoder that made the embeddings of the data set, to embed samples as it embedded the pictures."""
    encoder = fold_batch_norm(load_encoder(data.encoder_path)).to(device)
    return FeatureNetwork(data.meta.encoder.name, data.meta.encoder.sha256, encoder, device)


def encoder_network(path: Path, device: torch.device, conditioning: EncoderIdentity) -> FeatureNetwork:
    """An encoder as the second feature network; the one the generator is conditioned on may not judge it."""
    identity = sha256_of_file(path)
    encoder = load_encoder(path)
    name = encoder.config.architecture
    if identity == conditioning.sha256 or name == conditioning.name:
        raise ConfigError(
            f"--second {path} is the kind of encoder the generator is conditioned on ({name}): choose another"
        )
    return FeatureNetwork(name, identity, fold_batch_norm(encoder).to(device), device)
