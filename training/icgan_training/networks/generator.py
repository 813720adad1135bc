"""The IC-GAN generator on the BigGAN backbone: noise, instance and class in, a picture out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icgan_training.networks.config import Conditions, ModelConfig
from icgan_training.networks.layers import BatchNorm, GeneratorBlock, SelfAttention, SNConv2d, SNLinear


class Generator(nn.Module):
    """Draws images that look like the neighbours of an instance (IC-GAN, section 3).

    The condition of every block is the concatenation [class embedding, instance embedding, noise piece];
    what the model does not take is left out. State-dict keys are those of the published checkpoints.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        widths, sides = config.generator_widths, config.block_resolutions
        if config.class_count is not None:
            self.shared = nn.Embedding(config.class_count, config.shared_dim)
            nn.init.orthogonal_(self.shared.weight)
        if config.embedding_dim is not None:
            self.shared_feat = SNLinear(config.embedding_dim, config.shared_dim_feat)
            self.shared_feat.length = config.instance_gain
        self.linear = SNLinear(config.noise_chunk, widths[0] * 4 * 4)
        self.blocks = nn.ModuleList()
        for i, side in enumerate(sides):
            block = nn.ModuleList([GeneratorBlock(widths[i], widths[i + 1], config.condition_dim)])
            if side in config.attention:
                block.append(SelfAttention(widths[i + 1]))
            self.blocks.append(block)
        self.output_layer = nn.Sequential(BatchNorm(widths[-1]), nn.ReLU(), SNConv2d(widths[-1], 3, 3))
        if config.output_map:
            self.output_map = nn.Parameter(torch.zeros(3, config.resolution, config.resolution))

    def forward(self, noise: Tensor, embedding: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """Generate one image per row.

        noise: float32 [N, dim_z or more]; columns past `config.noise_used` are ignored.
        embedding: float32 [N, embedding_dim], unit rows; None for a model without instances.
        label: int64 [N] in [0, class_count); None for a model without classes and for the unconditional one.
        Returns float32 [N, 3, R, R] in [-1, 1].
        """
        config = self.config
        if noise.dim() != 2 or noise.shape[1] < config.noise_used:
            raise ValueError(f"noise is {list(noise.shape)}; expected [N, {config.dim_z}]")
        shared = self.condition(noise.shape[0], embedding, label)
        chunk = config.noise_chunk
        x = self.linear(noise[:, :chunk]).view(noise.shape[0], -1, 4, 4)
        for i, stage in enumerate(self.blocks, start=1):
            block, *attention = stage.children()
            piece = noise[:, i * chunk : (i + 1) * chunk]
            x = block(x, torch.cat([shared, piece], dim=1) if config.hierarchical else shared)
            for layer in attention:
                x = layer(x)
        x = self.output_layer(x).float()
        if config.output_map:
            x = x + self.output_map
        return torch.tanh(x)

    def centre_instances(self, mean: Tensor) -> None:
        """Let the instance part of the condition be zero at this embedding [embedding_dim], before training.

        Embeddings of non-negative features share most of their length, which says nothing about the instance.
        """
        self.shared_feat.centre(mean)

    def condition(self, count: int, embedding: Tensor | None, label: Tensor | None) -> Tensor:
        """What all blocks share of their condition: [N, shared_dim and/or shared_dim_feat]."""
        config, parts = self.config, []
        if config.class_count is not None:
            label = constant_label(config, self.shared.weight, count) if label is None else label
            parts.append(self.shared(label))
        if config.embedding_dim is not None:
            parts.append(self.shared_feat(checked_embedding(config, embedding)))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def constant_label(config: Conditions, like: Tensor, count: int) -> Tensor:
    """The label 0 of the unconditional model, int64 [count]. Raises ValueError where a label is a choice."""
    if config.takes_label:
        raise ValueError(f"label is missing; the model has {config.class_count} classes")
    return torch.zeros(count, dtype=torch.int64, device=like.device)


def checked_embedding(config: Conditions, embedding: Tensor | None) -> Tensor:
    """The embedding a model with instances needs. Raises ValueError unless it is [N, embedding_dim]."""
    if embedding is None or embedding.dim() != 2 or embedding.shape[1] != config.embedding_dim:
        shape = None if embedding is None else list(embedding.shape)
        raise ValueError(f"embedding is {shape}; expected [N, {config.embedding_dim}]")
    return embedding
