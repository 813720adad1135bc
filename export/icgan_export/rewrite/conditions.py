"""Scale and shift of every conditional norm, from label, embedding and noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from icgan_export.rewrite.constant_layers import constant, linear
from icgan_export.rewrite.fold import Affine, FoldedNorm, Weights
from icgan_training.networks.config import ModelConfig


class SeparateConditions(nn.Module):
    """Scale and shift of every norm by two matrix products each, as BigGAN writes it."""

    def __init__(self, config: ModelConfig, weights: Weights, norms: list[FoldedNorm]) -> None:
        super().__init__()
        self.source = ConditionSource(config, weights)
        self.blocks = [norm.block for norm in norms]
        self.scales = nn.ModuleList(linear(norm.scale, norm.scale_bias) for norm in norms)
        self.shifts = nn.ModuleList(linear(norm.shift, norm.shift_bias) for norm in norms)

    def forward(self, noise: Tensor, embedding: Tensor | None, label: Tensor | None) -> list[Affine]:
        shared, rest = self.source(noise, embedding, label)
        chunks = torch.split(rest, self.source.config.noise_chunk, dim=1) if rest is not None else ()
        conditions = [torch.cat([*shared, chunk], 1) for chunk in chunks] if chunks else None
        whole = torch.cat(shared, 1) if shared and conditions is None else None
        result = []
        for block, scale, shift in zip(self.blocks, self.scales, self.shifts, strict=True):
            y = conditions[block] if conditions else whole
            result.append((scale(y), shift(y)))
        return result


class ConditionProduct(nn.Module):
    """Scale and shift of every norm from one matrix product of [label, embedding, all noise pieces].

    The rows of a noise piece are zero for every block but its own; they are a seventh of the matrix at most.
    """

    def __init__(
        self, config: ModelConfig, weights: Weights, norms: list[FoldedNorm], over_pictures: Sequence[bool]
    ) -> None:
        """over_pictures: of each block, whether its affines are [N, 1, 1, C] and not [N, C]."""
        super().__init__()
        self.over_pictures = over_pictures
        self.source = ConditionSource(config, weights)
        widths = [len(norm.scale) for norm in norms for _ in range(2)]
        self.widths = [widths[start : start + 4] for start in range(0, len(widths), 4)]  # of each block
        chunk = config.noise_chunk if config.hierarchical else 0
        blocks = len(config.block_resolutions)
        rows = []
        for norm in norms:
            for part in (norm.scale, norm.shift):
                shared = part.shape[1] - chunk
                row = part.new_zeros(len(part), shared + blocks * chunk)
                row[:, :shared] = part[:, :shared]
                row[:, shared + norm.block * chunk : shared + (norm.block + 1) * chunk] = part[:, shared:]
                rows.append(row)
        constants = [part for norm in norms for part in (norm.scale_bias, norm.shift_bias)]
        self.product = linear(torch.cat(rows), torch.cat(constants))

    def forward(self, noise: Tensor, embedding: Tensor | None, label: Tensor | None) -> list[Affine]:
        shared, rest = self.source(noise, embedding, label)
        inputs = [*shared, rest] if rest is not None else shared
        # block by block: a WebGPU shader may bind 8 tensors, the parts of one split among them
        blocks = torch.split(
            self.product(torch.cat(inputs, 1)), [sum(widths) for widths in self.widths], dim=1
        )
        affines: list[Affine] = []
        for block, widths, over_pictures in zip(blocks, self.widths, self.over_pictures, strict=True):
            if over_pictures:  # once, where four vectors would be given these axes one by one
                block = block.unsqueeze(1).unsqueeze(1)
            scale1, shift1, scale2, shift2 = torch.split(block, widths, dim=-1)
            affines += [(scale1, shift1), (scale2, shift2)]
        return affines


class ConditionSource(nn.Module):
    """What the conditions are made of: class embedding, projected instance embedding, noise pieces."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        super().__init__()
        self.config = config
        if config.class_count is not None:
            self.label = constant(weights["shared.weight"])  # [classes, shared_dim]
        if config.takes_embedding:
            self.embedding = linear(weights["shared_feat.weight"], weights["shared_feat.bias"])

    def forward(
        self, noise: Tensor, embedding: Tensor | None, label: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """What every block sees, each [N, ..], and the noise pieces of all blocks [N, blocks x chunk]."""
        shared = []
        if self.config.class_count is not None:
            # the unconditional baseline's label is the constant 0
            index = label if label is not None else torch.zeros_like(noise[:, 0], dtype=torch.int64)
            # not F.embedding: the tracer would call its result "embedding", the name of an input
            shared.append(torch.index_select(self.label, 0, index))
        if self.config.takes_embedding:
            shared.append(self.embedding(embedding))
        if not self.config.hierarchical:
            return shared, None
        chunk, blocks = self.config.noise_chunk, len(self.config.block_resolutions)
        return shared, noise[:, chunk : (blocks + 1) * chunk]  # what is left over is of no block
