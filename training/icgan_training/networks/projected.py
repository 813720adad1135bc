"""The projected discriminator (Sauer et al., "Projected GANs Converge Faster", NeurIPS 2021) with conditions.

Pictures are judged on frozen features of a pretrained network instead of on pixels: four of its stages,
mixed across channels and scales by fixed random convolutions, each with a small head of its own. It needs a
fraction of the pictures that a discriminator trained from nothing needs. Only training ever sees it: the
generator, its files and everything exported stay as they are.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icgan_training.errors import ConfigError
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.discriminator import Discriminator
from icgan_training.networks.efficientnet import EfficientNetLite0
from icgan_training.networks.encoder import Encoder, fold_batch_norm
from icgan_training.networks.generator import checked_embedding, constant_label
from icgan_training.networks.layers import SNConv2d, SNDownConv2d, SNEmbedding, SNLinear, float32_region

# Blocks of EfficientNet-lite0 that end a stage: 1/4, 1/8, 1/16 and 1/32 of the picture's side.
TAPS = {2: 24, 4: 40, 10: 112, 15: 320}  # block -> channels
MIXED_CHANNELS = (32, 64, 128, 256)  # of the stages after mixing, fine to coarse
HEAD_CHANNELS = 256
LEAK = 0.2
INSTANCE_GAIN = 2.0  # spectral norm keeps the projection of an instance short; this outweighs "looks real"
ENLARGEMENT, ENLARGED_SIDE = 3, 128  # small pictures are enlarged threefold, to at most this side


class ProjectedDiscriminator(nn.Module):
    """Scores how real a picture is as a neighbour of its instance (and as a member of its class).

    The frozen parts have `requires_grad` off and travel in the weights file. A new discriminator has random
    features until `adopt` gives it those of an encoder.
    """

    mean: Tensor
    std: Tensor
    instance_mean: Tensor
    instance_spread: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.features = fold_batch_norm(EfficientNetLite0().eval())
        del self.features.head
        self.mix_channels = nn.ModuleList(
            nn.Conv2d(taken, mixed, 1) for taken, mixed in zip(TAPS.values(), MIXED_CHANNELS, strict=True)
        )
        self.mix_scales = nn.ModuleList(
            nn.Conv2d(coarse, fine, 3, padding=1) for fine, coarse in pairwise(MIXED_CHANNELS)
        )
        for frozen in (self.features, self.mix_channels, self.mix_scales):
            frozen.requires_grad_(False)
        for module in (*self.mix_channels, *self.mix_scales):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))  # of pictures in [0, 1]: the encoder's
        self.register_buffer("std", torch.ones(1, 3, 1, 1))
        if config.embedding_dim is not None:
            self.register_buffer("instance_mean", torch.zeros(config.embedding_dim))
            self.register_buffer("instance_spread", torch.ones(()))
        self.heads = nn.ModuleList(
            Head(channels, downsamplings, config)
            for channels, downsamplings in zip(MIXED_CHANNELS, (3, 2, 1, 0), strict=True)
        )

    def adopt(self, encoder: Encoder, embeddings: Tensor) -> None:
        """Take the features of a trained encoder, and from instances [N, D] where they lie.

        Embeddings of non-negative features share most of their length; what tells instances apart is the
        rest, which the heads get at unit mean square. Raises ConfigError for another architecture.
        """
        if encoder.config.architecture != "efficientnet-lite0":
            raise ConfigError(
                f"discriminator 'projected' needs the features of efficientnet-lite0, not of"
                f" {encoder.config.architecture}: prepare the data with --encoder efficientnet-lite0"
            )
        backbone = fold_batch_norm(encoder).backbone.state_dict()
        self.features.load_state_dict(
            {name: value for name, value in backbone.items() if not name.startswith("head.")}
        )

        self.mean.copy_(encoder.mean)
        self.std.copy_(encoder.std)
        if self.config.embedding_dim is not None:
            self.instance_mean.copy_(embeddings.mean(0))
            self.instance_spread.copy_((embeddings - self.instance_mean).square().sum(1).mean().sqrt())

    def forward(self, image: Tensor, embedding: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """Score patches of every picture at four scales.

        image: float32 [N, 3, R, R] in [-1, 1]; embedding and label as the generator takes them.
        Returns float32 [N, P], unbounded: positive for real (hinge loss), P places over all scales.
        """
        if self.config.embedding_dim is not None:
            embedding = checked_embedding(self.config, embedding)
            embedding = INSTANCE_GAIN * (embedding - self.instance_mean) / self.instance_spread
        if self.config.class_count is not None and label is None:
            label = constant_label(self.config, image, image.shape[0])
        scores = [
            head(mixed, embedding, label) for head, mixed in zip(self.heads, self.mixed(image), strict=True)
        ]
        return torch.cat([score.flatten(1) for score in scores], dim=1)

    def mixed(self, image: Tensor) -> list[Tensor]:
        """The four stages, fine to coarse, each with what the coarser ones say added (section 3.2)."""
        stages = self._stages(image)
        mixed = [conv(stage) for conv, stage in zip(self.mix_channels, stages, strict=True)]
        for i in reversed(range(len(self.mix_scales))):
            mixed[i] = mixed[i] + F.interpolate(
                self.mix_scales[i](mixed[i + 1]), size=mixed[i].shape[2:], mode="bilinear"
            )
        return mixed

    def _stages(self, image: Tensor) -> list[Tensor]:
        side = max(image.shape[-1], min(ENLARGEMENT * image.shape[-1], ENLARGED_SIDE))
        if side != image.shape[-1]:
            image = F.interpolate(image, size=(side, side), mode="bilinear")
        x = self.features.stem(((image + 1) / 2 - self.mean) / self.std)
        stages = []
        for i, block in enumerate(self.features.blocks):
            x = block(x)
            if i in TAPS:
                stages.append(x)
        return stages


class Head(nn.Module):
    """Scores one stage at 4x4 places: halving convolutions, then the projection of every place."""

    def __init__(self, channels: int, downsamplings: int, config: ModelConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(downsamplings):
            self.blocks.append(SNDownConv2d(channels, min(2 * channels, HEAD_CHANNELS)))
            channels = min(2 * channels, HEAD_CHANNELS)
        self.last = SNConv2d(channels, HEAD_CHANNELS, 3)
        self.score = SNConv2d(HEAD_CHANNELS, 1, 1)
        if config.embedding_dim is not None:
            self.linear_feat = SNLinear(config.embedding_dim, HEAD_CHANNELS)
        if config.class_count is not None:
            self.embed = SNEmbedding(config.class_count, HEAD_CHANNELS)

    def forward(self, x: Tensor, embedding: Tensor | None, label: Tensor | None) -> Tensor:
        """A stage [N, C, S, S] -> float32 [N, 1, 4, 4] (at the smallest side)."""
        for block in self.blocks:
            x = F.leaky_relu(block(x), LEAK)
        x = F.leaky_relu(self.last(x), LEAK)
        with float32_region(x):
            x = x.float()
            score: Tensor = self.score(x)
            for condition in self._projections(embedding, label):
                score = score + (condition[:, :, None, None] * x).sum(1, keepdim=True)
        return score

    def _projections(self, embedding: Tensor | None, label: Tensor | None) -> list[Tensor]:
        """The vectors that every place is projected on, each [N, HEAD_CHANNELS]."""
        parts = []
        if label is not None:
            parts.append(self.embed(label))
        if embedding is not None:
            parts.append(self.linear_feat(embedding))
        return parts


AnyDiscriminator = Discriminator | ProjectedDiscriminator


def discriminator_class(config: ModelConfig) -> type[Discriminator] | type[ProjectedDiscriminator]:
    """The kind of discriminator that `config.discriminator` names."""
    return ProjectedDiscriminator if config.discriminator == "projected" else Discriminator
