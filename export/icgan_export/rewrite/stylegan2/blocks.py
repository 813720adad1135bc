"""The forms of a block: conv0 doubles the side, conv1 keeps it, both modulated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icgan_export.rewrite.blocks import Phases, interleave, winograd_input, winograd_output
from icgan_export.rewrite.constant_layers import constant, conv
from icgan_export.rewrite.fold import winograd_kernels
from icgan_export.rewrite.stylegan2.choice import StyleForm
from icgan_export.rewrite.stylegan2.fold import LayerTensors, banded, phase_kernel
from icgan_training.networks.stylegan2.layers import LEAK, filter_kernel


class Demodulation(nn.Module):
    """style [N, I] -> [N, O], by one product for layer and batch."""

    squares: Tensor  # [I, O]

    def __init__(self, layer: LayerTensors) -> None:
        super().__init__()
        self.eps = layer.eps
        self.register_buffer("squares", layer.squares.t().contiguous())

    def forward(self, style: Tensor) -> Tensor:
        return torch.rsqrt(style.square() @ self.squares + self.eps)


class ConvLayer(nn.Module):
    """A layer as convolutions on [N, I, h, w]."""

    noise: Tensor
    bias: Tensor

    def __init__(self, layer: LayerTensors, form: StyleForm) -> None:
        super().__init__()
        self.demodulation, self.clamp = Demodulation(layer), layer.clamp
        self.conv: nn.Module
        if not layer.up:
            self.conv = conv(layer.kernel, None, padding=1)
        elif form == "phases":
            self.conv = nn.Sequential(conv(phase_kernel(layer.kernel), None, padding=1), nn.PixelShuffle(2))
        else:
            self.conv = TransposedFilter(layer.kernel)
        self.register_buffer("noise", layer.noise)
        self.register_buffer("bias", layer.bias[:, None, None])

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = self.conv(x * style[:, :, None, None])
        return held(x * self.demodulation(style)[:, :, None, None] + self.bias + self.noise, self.clamp)


class TransposedFilter(nn.Module):
    """A transposed convolution of stride 2, then the filter."""

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        out_channels, in_channels, size, _ = kernel.shape
        self.up = nn.ConvTranspose2d(in_channels, out_channels, size, 2, bias=False, device="meta")
        self.up.weight = constant(kernel.transpose(0, 1).contiguous())
        self.filter = nn.Conv2d(
            out_channels, out_channels, 4, padding=1, groups=out_channels, bias=False, device="meta"
        )
        self.filter.weight = constant(filter_kernel(4.0).to(kernel).repeat(out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.filter(self.up(x))
        return out


class ProductBlock(nn.Module):
    """Both layers of a block as matrix products on [N, h, w, I]; in between the picture is in four quarters.

    `rows` and `columns` hold even pixels first, so that a quarter is a slice.
    """

    kernel0: Tensor  # [3, I, 3 O]: a row of taps a product
    rows: Tensor  # [2 h, 3 h], columns the same in another order
    columns: Tensor
    noise0: Tensor  # [2, h, 2, h, 1], noise1 [2 h, 2 h, 1]
    noise1: Tensor
    bias0: Tensor  # [O], bias1 [O]
    bias1: Tensor

    def __init__(self, layer0: LayerTensors, layer1: LayerTensors) -> None:
        super().__init__()
        self.demodulation0, self.demodulation1 = Demodulation(layer0), Demodulation(layer1)
        self.clamp = layer0.clamp
        self.side = layer0.noise.shape[0] // 2
        taps = layer0.kernel.permute(2, 1, 3, 0)  # [ky, I, kx, O]
        self.register_buffer("kernel0", taps.flatten(2).contiguous())
        self.register_buffer("rows", banded(self.side).to(layer0.kernel))
        columns = banded(self.side).reshape(2 * self.side, 3, self.side).transpose(1, 2)
        self.register_buffer("columns", columns.flatten(1).contiguous().to(layer0.kernel))
        for index, matrix in enumerate(winograd_kernels(layer1.kernel)):
            self.register_buffer(f"kernel1_{index}", matrix.contiguous())
        noise = layer0.noise.reshape(self.side, 2, self.side, 2).permute(1, 0, 3, 2)
        self.register_buffer("noise0", noise.reshape(2 * self.side, 2 * self.side, 1).contiguous())
        self.register_buffer("noise1", layer1.noise[:, :, None])
        self.register_buffer("bias0", layer0.bias)
        self.register_buffer("bias1", layer1.bias)

    def forward(self, x: Tensor, style0: Tensor, style1: Tensor) -> Tensor:
        """x [N, h, w, I] -> [N, 2 h, 2 w, O]."""
        h = self.conv0(x * style0[:, None, None]) * self.demodulation0(style0)[:, None, None]
        h = held(h + self.bias0 + self.noise0, self.clamp) * style1[:, None, None]
        h = h.reshape(-1, 2, self.side, 2, self.side, h.shape[3])
        h = interleave(self.conv1([[h[:, p, :, q] for q in (0, 1)] for p in (0, 1)]))
        h = h * self.demodulation1(style1)[:, None, None]
        return held(h + self.bias1 + self.noise1, self.clamp)

    def conv0(self, x: Tensor) -> Tensor:
        """The transposed convolution and the filter: [N, h, w, I] -> [N, 2 h, 2 w, O], even pixels first."""
        side = self.side
        taps = x.flatten(1, 2)[:, None] @ self.kernel0  # [N, 3, h w, 3 O]
        rows = self.rows @ taps.reshape(-1, 3 * side, side * taps.shape[3])  # [N, 2 h, w 3 O]
        channels = self.kernel0.shape[2] // 3
        out: Tensor = self.columns @ rows.reshape(-1, 2 * side, 3 * side, channels)
        return out

    def conv1(self, phases: Phases) -> Phases:
        """The 3x3 convolution on quarters [N, h, w, O], to quarters."""
        by_row = [winograd_input(phases[0][q], phases[1][q], 1) for q in (0, 1)]
        products = []
        for i in range(4):
            for j, tile in enumerate(winograd_input(by_row[0][i], by_row[1][i], 2)):
                products.append(tile @ self.get_buffer(f"kernel1_{4 * i + j}"))
        columns = [winograd_output(products[4 * i : 4 * i + 4]) for i in range(4)]
        outputs = [winograd_output([column[q] for column in columns]) for q in (0, 1)]
        return [[outputs[q][p] for q in (0, 1)] for p in (0, 1)]


def held(x: Tensor, clamp: float | None) -> Tensor:
    """The activation, its gain already inside."""
    x = F.leaky_relu(x, LEAK)
    return x if clamp is None else x.clamp(-clamp, clamp)
