"""StyleGAN2's generator as it is usually written and exported, for comparisons.

Kernels are modulated row by row to find the demodulation, filters run on pictures with zeros put between
pixels, every layer has a style product of its own. The grouped form with a kernel for each row, which is
written for GPUs, does not export with a batch of any size.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from icgan_training.networks.stylegan2.generator import StyleGAN2Generator
from icgan_training.networks.stylegan2.layers import ModulatedConv, ToRGB, filter_kernel


class PlainStyleGAN2(nn.Module):
    """noise, embedding, label as `StyleGAN2Generator` takes them -> picture [N, 3, R, R]."""

    def __init__(self, generator: StyleGAN2Generator) -> None:
        super().__init__()
        self.generator = generator
        self.register_buffer("filter", filter_kernel(1.0).float())

    def forward(self, noise: Tensor, embedding: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        w = self.generator.latents(noise, embedding, label)
        ws = w[:, None].repeat(1, self.generator.config.latents, 1)
        x = image = None
        for index, block in enumerate(self.generator.synthesis.blocks()):
            if x is None:
                x = block.const[None].repeat(noise.shape[0], 1, 1, 1)
            else:
                x = self.layer(block.conv0, x, ws[:, 2 * index - 1])
            x = self.layer(block.conv1, x, ws[:, 2 * index])
            colours = self.colours(block.torgb, x, ws[:, 2 * index + 1])
            image = colours if image is None else self.resample(zeros_between(image), (2, 1)) + colours
        assert image is not None
        return image

    def layer(self, layer: ModulatedConv, x: Tensor, w: Tensor) -> Tensor:
        """Style, convolution, demodulation, noise, bias, activation, clamp: one step after the other."""
        style = layer.affine(w)
        kernels = layer.weight[None] * style[:, None, :, None, None]
        scale = (kernels.square().sum((2, 3, 4)) + 1e-8).rsqrt()
        x = x * style[:, :, None, None]
        if layer.up:
            x = F.conv_transpose2d(x, layer.weight.transpose(0, 1), stride=2)
            x = self.resample(x, (1, 1))
        else:
            x = F.conv2d(x, layer.weight, padding=1)
        x = x * scale[:, :, None, None] + layer.noise_const * layer.noise_strength
        x = F.leaky_relu(x + layer.bias[:, None, None], 0.2) * math.sqrt(2)
        return x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)

    def colours(self, layer: ToRGB, x: Tensor, w: Tensor) -> Tensor:
        """A styled 1x1 convolution."""
        style = layer.affine(w) / math.sqrt(x.shape[1])
        x = F.conv2d(x * style[:, :, None, None], layer.weight) + layer.bias[:, None, None]
        return x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)

    def resample(self, x: Tensor, pads: tuple[int, int]) -> Tensor:
        """The padded filter, for four times as many pixels."""
        kernel = (self.filter * 4)[None, None].repeat(x.shape[1], 1, 1, 1)
        return F.conv2d(F.pad(x, pads * 2), kernel, groups=x.shape[1])


def zeros_between(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2 H, 2 W], a zero after every pixel."""
    count, channels, height, width = x.shape
    x = F.pad(x.reshape(count, channels, height, 1, width, 1), [0, 1, 0, 0, 0, 1])
    return x.reshape(count, channels, 2 * height, 2 * width)
