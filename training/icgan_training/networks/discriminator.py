"""The projection discriminator (Miyato & Koyama 2018) on instance and class, as IC-GAN trains it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icgan_training.networks.config import ModelConfig
from icgan_training.networks.generator import checked_embedding, constant_label
from icgan_training.networks.layers import (
    DiscriminatorBlock,
    SelfAttention,
    SNEmbedding,
    SNLinear,
    float32_region,
)


class Discriminator(nn.Module):
    """Scores how real a picture is as a neighbour of its instance (and as a member of its class).

    With both conditions, class and instance project onto half of the features each. State-dict keys are
    those of the published checkpoints.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.discriminator_widths
        self.blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            downsample = i < config.downsamplings
            in_channels = widths[i - 1] if i else 3
            block: list[nn.Module] = [
                DiscriminatorBlock(in_channels, width, preactivation=i > 0, downsample=downsample)
            ]
            if downsample and config.resolution >> (i + 1) in config.attention:
                block.append(SelfAttention(width))
            self.blocks.append(nn.Sequential(*block))
        features = widths[-1]
        self.linear = SNLinear(features, 1)
        projected = features // 2 if config.conditioning == "class+instance" else features
        if config.embedding_dim is not None:
            self.linear_feat = SNLinear(config.embedding_dim, projected)
            self.linear_feat.length = config.instance_gain
        if config.class_count is not None:
            self.embed = SNEmbedding(config.class_count, projected)

    def forward(self, image: Tensor, embedding: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """Score one picture per row.

        image: float32 [N, 3, R, R] in [-1, 1]; embedding and label as the generator takes them.
        Returns float32 [N, 1], unbounded: positive for real (hinge loss).
        """
        x = image
        for block in self.blocks:
            x = block(x)
        with float32_region(x):
            features = F.relu(x).float().sum((2, 3))
            logits: Tensor = self.linear(features)
            projection = (self.projection(image, embedding, label) * features).sum(1, keepdim=True)
            return logits + projection

    def centre_instances(self, mean: Tensor) -> None:
        """Let the instance part of the projection be zero at this embedding [embedding_dim]."""
        self.linear_feat.centre(mean)

    def projection(self, image: Tensor, embedding: Tensor | None, label: Tensor | None) -> Tensor:
        """The vector the features are projected on: [N, features], class part first."""
        config, parts = self.config, []
        if config.class_count is not None:
            label = constant_label(config, image, image.shape[0]) if label is None else label
            parts.append(self.embed(label))
        if config.embedding_dim is not None:
            parts.append(self.linear_feat(checked_embedding(config, embedding)))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
