"""The weights of a StyleGAN2 generator with all that is constant multiplied in, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from icgan_training.networks.stylegan2.layers import EPS, GAIN, TAPS, EqualLinear, ModulatedConv, ToRGB

LINE = torch.tensor(TAPS, dtype=torch.float64) / 4  # the filter along one axis, doubled for the zeros between


@dataclass(frozen=True)
class LayerTensors:
    """A layer: leaky ReLU of conv(x * style) * demodulation + noise + bias, held within `clamp`."""

    style: tuple[Tensor, Tensor]  # [I, dim_w] and [I]
    kernel: Tensor  # [O, I, 3, 3]
    squares: Tensor  # [O, I], with the activation's gain: demodulation is 1 / sqrt(style^2 squares + eps)
    eps: float
    noise: Tensor  # [side, side], with strength and gain
    bias: Tensor  # [O], with gain
    up: bool
    clamp: float | None

    @classmethod
    def read(cls, layer: ModulatedConv) -> LayerTensors:
        """Of a layer whose weights are float64. A positive gain passes through the leaky ReLU."""
        # A power of two, so exact: sums of products stay near 1 and within FP16; demodulation undoes it.
        shrink = 2.0 ** -round(math.log2(math.sqrt(layer.weight[0].numel())))
        weight = layer.weight.detach() * shrink
        return cls(
            layer.affine.scaled(),
            weight,
            weight.square().sum((2, 3)) / GAIN**2,
            EPS * (shrink / GAIN) ** 2,
            layer.noise_const * layer.noise_strength.detach() * GAIN,
            layer.bias.detach() * GAIN,
            layer.up,
            layer.clamp,
        )


def colour_style(layer: ToRGB) -> tuple[Tensor, Tensor]:
    """The affine map [C, dim_w] and [C] of a colour layer's style, scaled as its weight would be."""
    weight, bias = layer.affine.scaled()
    scale = 1 / math.sqrt(layer.weight.shape[1])
    return weight * scale, bias * scale


def activated(layer: EqualLinear) -> tuple[Tensor, Tensor]:
    """A layer of the mapping with the gain of the activation behind it."""
    weight, bias = layer.scaled()
    return weight * GAIN, bias * GAIN


def phase_kernel(kernel: Tensor) -> Tensor:
    """[O, I, 3, 3] of a transposed convolution of stride 2, and the filter -> [4 O, I, 3, 3].

    One 3x3 kernel for each of the four pixels that a pixel becomes; channel 4 o + 2 p + q is pixel (p, q), as
    a pixel shuffle takes them.
    """
    bands = _bands().to(kernel)
    phases = torch.einsum("oiyx,pay,qbx->opqiab", kernel, bands, bands)
    return phases.flatten(0, 2).contiguous()


def filter_phases(channels: int) -> Tensor:
    """The filter after zeros between pixels, for each channel by itself: [4 C, C, 3, 3]."""
    line = torch.zeros(2, 3, dtype=torch.float64)  # pixel 2 i + p of the pixels i - 1 .. i + 1
    line[0, 0], line[0, 1], line[1, 1], line[1, 2] = LINE[0], LINE[2], LINE[1], LINE[3]
    each = torch.eye(channels, dtype=torch.float64)
    return torch.einsum("oi,pa,qb->opqiab", each, line, line).flatten(0, 2).contiguous()


def _bands() -> Tensor:
    """[2, 3, 3]: pixel 2 i + p takes from x[i - 1 + a] by tap k of the kernel this share."""
    bands = torch.zeros(2, 3, 3, dtype=torch.float64)
    for phase in (0, 1):
        for tap in range(3):  # adds x[i] to pixel 2 i + tap of the picture that is 2 side + 1 wide
            for step in range(4):  # pixel n of the filtered one takes pixels n - 1 .. n + 2
                wide = phase - 1 + step - tap
                if wide % 2 == 0:
                    bands[phase, wide // 2 + 1, tap] += LINE[step]
    return bands


def banded(side: int) -> Tensor:
    """[2 side, 3 side]: what nine products become along one axis, even pixels first.

    Column `tap * side + i` is tap's product of x[i].
    """
    bands, matrix = _bands(), torch.zeros(2, side, 3, side, dtype=torch.float64)
    for phase in (0, 1):
        for offset in range(3):
            for tap in range(3):
                for i in range(max(0, 1 - offset), min(side, side + 1 - offset)):
                    matrix[phase, i, tap, i - 1 + offset] = bands[phase, offset, tap]
    return matrix.reshape(2 * side, 3 * side)
