"""The generator put together again from its folded weights, in the forms that `Rewrites` asks for."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icgan_export.rewrite.attention import Attention, ProductAttention
from icgan_export.rewrite.blocks import ConvBlock, ProductBlock
from icgan_export.rewrite.choice import Rewrites
from icgan_export.rewrite.conditions import ConditionProduct, SeparateConditions
from icgan_export.rewrite.constant_layers import conv, linear, scattered
from icgan_export.rewrite.fold import (
    BlockTensors,
    Weights,
    fold_output_norm,
    fold_spectral_norm,
    fold_statistics,
)
from icgan_export.rewrite.matrices import MatrixBlock
from icgan_export.rewrite.shifts import ShiftBlock
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.generator import Generator

CHANNELS_LAST = ("products", "matrices", "shifts")  # forms that take [N, h, w, C]


def rewrite(generator: Generator, rewrites: Rewrites) -> RewrittenGenerator:
    """The same function as `generator` in eval mode, in its dtype; the generator is left as it is."""
    dtype = next(generator.parameters()).dtype
    weights = fold_spectral_norm(copy.deepcopy(generator).double().eval())
    return RewrittenGenerator(generator.config, weights, rewrites).to(dtype).eval()


class RewrittenGenerator(nn.Module):
    """noise [N, dim_z], embedding [N, D] or None, label [N] or None -> image [N, 3, R, R] in [-1, 1]."""

    output_scale: Tensor  # [C, 1, 1]
    output_shift: Tensor
    output_map: Tensor  # [3, R, R]

    def __init__(self, config: ModelConfig, weights: Weights, rewrites: Rewrites) -> None:
        super().__init__()
        count = len(config.block_resolutions)
        if len(rewrites.blocks) != count:
            raise ValueError(f"rewrites.blocks has {len(rewrites.blocks)} forms for {count} blocks")
        self.config = config
        self.conditions: nn.Module
        norms = []
        for block in range(count):
            norms.append(fold_statistics(weights, block, "bn1", None))
            norms.append(fold_statistics(weights, block, "bn2", weights[f"blocks.{block}.0.conv1.bias"]))
        if rewrites.condition_product:
            self.conditions = ConditionProduct(
                config, weights, norms, [form == "shifts" for form in rewrites.blocks]
            )
        else:
            self.conditions = SeparateConditions(config, weights, norms)
        self.input = InputMap(weights, channels_last=rewrites.blocks[0] in CHANNELS_LAST)
        attended = {config.block_resolutions.index(side) for side in config.attention}
        output_in_block = rewrites.output_norm and count - 1 not in attended
        output_scale, output_shift = fold_output_norm(weights)
        self.blocks = nn.ModuleList()
        for block, form in enumerate(rewrites.blocks):
            tensors = BlockTensors.read(weights, f"blocks.{block}.0")
            if block == count - 1 and output_in_block:
                tensors = tensors.scaled(output_scale, output_shift)
            if form == "products":
                self.blocks.append(ProductBlock(tensors))
            elif form == "matrices":
                self.blocks.append(MatrixBlock(tensors, config.block_resolutions[block] // 2))
            elif form == "shifts":
                self.blocks.append(ShiftBlock(tensors, config.block_resolutions[block] // 2))
            else:
                self.blocks.append(ConvBlock(tensors, form, rewrites.early_shortcut))
        attention = ProductAttention if rewrites.attention_product else Attention
        self.attention = nn.ModuleDict(
            {
                str(block): attention(weights, f"blocks.{block}.1", rewrites.attention_parts)
                for block in sorted(attended)
            }
        )
        self.output_norm = not output_in_block
        if self.output_norm:
            self.register_buffer("output_scale", output_scale[:, None, None])
            self.register_buffer("output_shift", output_shift[:, None, None])
        to_colours = scattered if rewrites.output_transposed else conv
        self.output = to_colours(weights["output_layer.2.weight"], weights["output_layer.2.bias"], padding=1)
        if config.output_map:
            self.register_buffer("output_map", weights["output_map"])

    def forward(self, noise: Tensor, embedding: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        affines = self.conditions(noise, embedding, label)
        x = self.input(noise[:, : self.config.noise_chunk])
        channels_last = self.input.channels_last
        for index, block in enumerate(self.blocks):
            wanted = isinstance(block, ProductBlock | MatrixBlock | ShiftBlock)
            x = block(_lay_out(x, channels_last, wanted), affines[2 * index], affines[2 * index + 1])
            channels_last = wanted
            if str(index) in self.attention:
                x, channels_last = self.attention[str(index)](_lay_out(x, channels_last, False)), False
        x = _lay_out(x, channels_last, False)
        if self.output_norm:
            x = x * self.output_scale + self.output_shift
        x = self.output(F.relu(x))
        if self.config.output_map:
            x = x + self.output_map
        return torch.tanh(x)


class InputMap(nn.Module):
    """The first noise piece [N, chunk] -> [N, C, 4, 4], or [N, 4, 4, C] when the next block wants that."""

    def __init__(self, weights: Weights, channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last
        weight, bias = weights["linear.weight"], weights["linear.bias"]
        self.channels = len(bias) // 16
        if channels_last:  # the rows of the matrix take the order of the output
            weight = weight.reshape(self.channels, 16, -1).transpose(0, 1).flatten(0, 1)
            bias = bias.reshape(self.channels, 16).t().flatten()
        self.product = linear(weight, bias)

    def forward(self, noise: Tensor) -> Tensor:
        shape = (4, 4, self.channels) if self.channels_last else (self.channels, 4, 4)
        x: Tensor = self.product(noise)
        return x.reshape(-1, *shape)


def _lay_out(x: Tensor, channels_last: bool, wanted: bool) -> Tensor:
    if channels_last == wanted:
        return x
    return x.permute(0, 3, 1, 2) if channels_last else x.permute(0, 2, 3, 1)
