"""The layers of StyleGAN2, as plain operators, with the parameter names of the published weights.

Weights are stored at unit variance and scaled when they are used (equalised learning rate, Karras et al.
2018). A modulated convolution (StyleGAN2, section 2.2) multiplies what goes in by the style and what comes
out by the demodulation instead of giving every row a kernel of its own: the same sums, one convolution.

Few rows in eval mode, in float32 on a CPU, are added up as the published pictures were, or in parts, which
comes nearer to exact sums: they lie within 1e-5 of the published ones, whose pixels reach ±13 and are 0.8e-5
from exact themselves. Whole sums would leave 1.4e-5 (tests/training/networks/stylegan2/test_published.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icgan_training.networks.layers import float32_region

LEAK = 0.2
GAIN = math.sqrt(2)  # keeps the variance through the leaky ReLU
EPS = 1e-8
TAPS = (1.0, 3.0, 3.0, 1.0)  # of the filter that goes with every change of the side
FEW_ROWS = 16  # parts take up to three times as long, and kernels for each row memory
# With AVX-512 a product of few rows is sixteen partial sums anyway, as in the published w; elsewhere one sum.
IN_PARTS = torch.backends.cpu.get_cpu_capability() != "AVX512"
PARTIAL_SUMS = 16
CONV_PARTS = {False: (4, 16), True: (8, 8)}  # transposed or not: channels of a part at least, parts at most


class EqualLinear(nn.Module):
    """A linear map whose weight is scaled by `rate` / sqrt(in), its bias by `rate`, at run time."""

    def __init__(self, in_features: int, out_features: int, *, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.rate = rate
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / rate)
        self.bias = nn.Parameter(torch.full((out_features,), bias / rate))

    def scaled(self) -> tuple[Tensor, Tensor]:
        """The weight [out, in] and bias [out] that are multiplied and added."""
        return self.weight * (self.rate / math.sqrt(self.weight.shape[1])), self.bias * self.rate

    def forward(self, x: Tensor) -> Tensor:
        """[N, in] -> [N, out]."""
        weight, bias = self.scaled()
        if as_published(self, x):
            return product(x, weight) + bias
        return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))


class EqualConv(nn.Module):
    """A convolution of the discriminator: filtered to half the side where asked, then activated and held.

    `gain` multiplies what comes out; `clamp` holds it within gain times this magnitude.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        down: bool = False,
        bias: bool = True,
        activate: bool = True,
        gain: float = 1.0,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.down, self.activate = down, activate
        self.gain = gain * (GAIN if activate else 1.0)
        self.clamp = None if clamp is None else clamp * gain
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, size, size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H, W], or [N, out, H/2, W/2]."""
        size = self.weight.shape[-1]
        weight = (self.weight / math.sqrt(self.weight[0].numel())).to(x.dtype)
        if not self.down:
            x = F.conv2d(x, weight, padding=size // 2)
        elif size == 1:
            x = F.conv2d(halved(x), weight)
        else:
            x = F.conv2d(filtered(x, padding=2), weight, stride=2)
        if self.bias is not None:
            x = x + self.bias.to(x.dtype)[:, None, None]
        return held(F.leaky_relu(x, LEAK) if self.activate else x, self.gain, self.clamp)


class ModulatedConv(nn.Module):
    """A layer of the synthesis: style, 3x3 convolution, demodulation, constant noise, bias, activation.

    With `up` the side doubles: a transposed convolution, then the filter (StyleGAN2, figure 2).
    """

    noise_const: Tensor  # [side, side], drawn once with the weights

    def __init__(
        self, in_channels: int, out_channels: int, dim_w: int, side: int, *, up: bool, clamp: float | None
    ) -> None:
        super().__init__()
        self.up, self.clamp = up, clamp
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(side, side))
        self.affine = EqualLinear(dim_w, in_channels, bias=1.0)

    def forward(self, x: Tensor, w: Tensor, noise: bool | Tensor = True) -> Tensor:
        """x [N, in, H, W] and w [N, dim_w] -> [N, out, H, W], or [N, out, 2H, 2W].

        noise: the layer's constant one, none, or standard normal values [N, 1, side, side].
        """
        style: Tensor = self.affine(w)
        weight: Tensor = self.weight
        if as_published(self, x):
            x = modulated(x, weight, style, up=self.up, demodulate=True)
            return self.finished(filtered(x, padding=1, gain=4.0) if self.up else x, noise)
        if x.dtype == torch.float16:  # keeps sums of products within FP16; demodulation divides it out
            weight = weight / (weight.abs().amax((1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel()))
            style = style / style.abs().amax(1, keepdim=True)
        scale = demodulation(weight, style)
        x = x * style.to(x.dtype)[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, weight.to(x.dtype).transpose(0, 1), stride=2)
            x = filtered(x, padding=1, gain=4.0)
        else:
            x = F.conv2d(x, weight.to(x.dtype), padding=1)
        return self.finished(x * scale.to(x.dtype)[:, :, None, None], noise)

    def finished(self, x: Tensor, noise: bool | Tensor) -> Tensor:
        """What was convolved, with noise and bias, activated and held."""
        if noise is not False:
            drawn = self.noise_const if noise is True else noise
            x = x + (drawn * self.noise_strength).to(x.dtype)
        x = x + self.bias.to(x.dtype)[:, None, None]
        return held(F.leaky_relu(x, LEAK), GAIN, self.clamp)


class ToRGB(nn.Module):
    """The colours of one side: a modulated 1x1 convolution without demodulation."""

    def __init__(self, in_channels: int, dim_w: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.weight = nn.Parameter(torch.randn(3, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = EqualLinear(dim_w, in_channels, bias=1.0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, in, H, W] and w [N, dim_w] -> [N, 3, H, W]."""
        style = self.affine(w) * (1 / math.sqrt(self.weight.shape[1]))
        if as_published(self, x):
            x = modulated(x, self.weight, style)
        else:
            x = F.conv2d(x * style.to(x.dtype)[:, :, None, None], self.weight.to(x.dtype))
        return held(x + self.bias.to(x.dtype)[:, None, None], 1.0, self.clamp)


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """What brings every output channel back to unit variance: [N, out] of kernels [out, in, k, k].

    1 / sqrt(sum over the kernel of (weight * style)^2): the squares add up over k before the rows come in.
    """
    with float32_region(style):
        style = style if style.dtype == torch.float64 else style.float()
        return torch.rsqrt(style.square() @ weight.square().sum((2, 3)).t() + EPS)


def as_published(module: nn.Module, x: Tensor) -> bool:
    """Whether sums over x [N, ...] are to come as near as can be to the published ones.

    Never in a graph that is traced, which is for any N.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return False
    return not module.training and len(x) <= FEW_ROWS and x.dtype == torch.float32 and x.device.type == "cpu"


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Rows [N, in] times [out, in]: [N, out], each of sixteen partial sums."""
    width = x.shape[1]
    if not IN_PARTS or width % PARTIAL_SUMS:
        return x @ weight.t()
    parts = (-1, width // PARTIAL_SUMS, PARTIAL_SUMS)
    return added_up(tuple(x.reshape(parts).permute(2, 0, 1) @ weight.reshape(parts).permute(2, 1, 0)))


def modulated(
    x: Tensor, weight: Tensor, style: Tensor, *, up: bool = False, demodulate: bool = False
) -> Tensor:
    """The modulated convolution, with `up` the transposed one of stride 2: in parts, or with a kernel a row.

    x [N, in, H, W], weight [out, in, k, k], style [N, in].
    """
    count, (out, channels, _, _) = len(x), weight.shape
    if IN_PARTS:
        least, most = CONV_PARTS[up]
        parts = min(channels // least, most) or 1
        styled = (x * style[:, :, None, None]).chunk(parts, 1)
        pairs = zip(styled, weight.chunk(parts, 1), strict=True)
        y = added_up([_convolved(some, part.transpose(0, 1) if up else part, up) for some, part in pairs])
        if demodulate:
            y = y * torch.rsqrt(product(style.square(), weight.square().sum((2, 3))) + EPS)[:, :, None, None]
        return y
    kernels = weight * style[:, None, :, None, None]  # [N, out, in, k, k]
    if demodulate:
        kernels = kernels * torch.rsqrt(kernels.square().sum((2, 3, 4), keepdim=True) + EPS)
    kernels = (kernels.transpose(1, 2) if up else kernels).flatten(0, 1)
    y = _convolved(x.reshape(1, count * channels, *x.shape[2:]), kernels, up, count)
    return y.reshape(count, out, *y.shape[2:])


def _convolved(x: Tensor, kernel: Tensor, up: bool, groups: int = 1) -> Tensor:
    if up:
        return F.conv_transpose2d(x, kernel, stride=2, groups=groups)
    return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=groups)


def added_up(parts: Sequence[Tensor]) -> Tensor:
    """Their sum: the second half onto the first, until one is left, as registers are added up."""
    while len(parts) > 1:
        rest = parts[(len(parts) + 1) // 2 :]
        parts = [*map(torch.add, parts, rest), *parts[len(rest) : len(parts) - len(rest)]]
    return parts[0]


def held(x: Tensor, gain: float, clamp: float | None) -> Tensor:
    """x times `gain`, within ±`clamp`."""
    x = x * gain if gain != 1.0 else x
    return x if clamp is None else x.clamp(-clamp, clamp)


def normalised(x: Tensor) -> Tensor:
    """Rows [N, C] of unit second moment."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + EPS)


def filtered(x: Tensor, *, padding: int, gain: float = 1.0) -> Tensor:
    """The 4x4 filter over zero-padded pictures [N, C, H, W], each side 2·padding - 3 longer."""
    kernel = filter_kernel(gain).to(x).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, padding=padding, groups=x.shape[1])


def halved(x: Tensor) -> Tensor:
    """Pictures filtered and reduced to half the side: [N, C, H, W] -> [N, C, H/2, W/2]."""
    kernel = filter_kernel(1.0).to(x).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def doubled(x: Tensor) -> Tensor:
    """Pictures enlarged to twice the side through the filter: [N, C, H, W] -> [N, C, 2H, 2W]."""
    kernel = filter_kernel(4.0).to(x).expand(x.shape[1], 1, 4, 4)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def filter_kernel(gain: float) -> Tensor:
    """The filter [4, 4], its sum `gain`."""
    taps = torch.tensor(TAPS, dtype=torch.float64)
    return torch.outer(taps, taps) * (gain / taps.sum() ** 2)
