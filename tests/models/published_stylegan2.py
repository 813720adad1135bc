"""The published StyleGAN2 IC-GAN once more, as it is written down: float64, a kernel for every row, each step
by itself.

Shares nothing with `icgan_training`. Keys are those of the published files.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
EPS = 1e-8
FILTER = torch.outer(*2 * [torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)]) / 64


def random_weights(resolution: int, channels: int, width: int, embedding: int, classes: int) -> Weights:
    """A generator (`g.`) and a discriminator (`d.`) with `channels` at every side, drawn at random."""
    source = torch.Generator().manual_seed(5)
    weights: Weights = {}

    def add(name: str, *shape: int, scale: float = 1.0, shift: float = 0.0) -> None:
        weights[name] = scale * torch.randn(*shape, generator=source) + shift

    def mapping(name: str, noise: int, out: int, layers: int) -> None:
        inputs = noise
        for part, size in (("embed", classes), ("embed_feats", embedding)):
            if size:
                add(f"{name}.{part}.weight", out, size)
                add(f"{name}.{part}.bias", out, scale=0.1)
                inputs += out
        for index in range(layers):
            add(f"{name}.fc{index}.weight", out, inputs, scale=100.0)
            add(f"{name}.fc{index}.bias", out, scale=10.0)
            inputs = out

    mapping("g.mapping", width, width, 2)
    add("g.mapping.w_avg", width, scale=0.3)
    add("g.synthesis.b4.const", channels, 4, 4)
    sides = [2**power for power in range(2, int(math.log2(resolution)) + 1)]
    for side in sides:
        for layer in ("conv0", "conv1", "torgb")[side == 4 :]:
            name, rgb = f"g.synthesis.b{side}.{layer}", layer == "torgb"
            kernel = 1 if rgb else 3
            add(f"{name}.weight", 3 if rgb else channels, channels, kernel, kernel)
            add(f"{name}.bias", 3 if rgb else channels, scale=0.2)
            add(f"{name}.affine.weight", channels, width)
            add(f"{name}.affine.bias", channels, scale=0.2, shift=1.0)
            if not rgb:
                add(f"{name}.noise_const", side, side)
                weights[f"{name}.noise_strength"] = torch.tensor(0.3)
    for side in reversed(sides[1:]):
        if side == resolution:
            add(f"d.b{side}.fromrgb.weight", channels, 3, 1, 1)
            add(f"d.b{side}.fromrgb.bias", channels, scale=0.2)
        for layer, kernel in (("conv0", 3), ("conv1", 3), ("skip", 1)):
            add(f"d.b{side}.{layer}.weight", channels, channels, kernel, kernel)
            if kernel == 3:
                add(f"d.b{side}.{layer}.bias", channels, scale=0.2)
    add("d.b4.conv.weight", channels, channels + 1, 3, 3)
    add("d.b4.fc.weight", channels, channels * 16)
    add("d.b4.out.weight", channels, channels)
    for layer in ("conv", "fc", "out"):
        add(f"d.b4.{layer}.bias", channels, scale=0.2)
    mapping("d.mapping", 0, channels, 8)
    return weights


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + EPS).sqrt()


def _linear(weights: Weights, name: str, x: Tensor, rate: float = 1.0) -> Tensor:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return x @ weight.t() * rate / math.sqrt(weight.shape[1]) + bias * rate


def _activate(x: Tensor, clamp: float | None, gain: float = 1.0) -> Tensor:
    x = torch.where(x < 0, 0.2 * x, x) * math.sqrt(2) * gain
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def _filter(x: Tensor, pads: tuple[int, int, int, int], gain: float = 1.0) -> Tensor:
    x = F.pad(x, pads)
    return F.conv2d(x, (FILTER * gain).repeat(x.shape[1], 1, 1, 1), groups=x.shape[1])


def _spread_out(x: Tensor) -> Tensor:
    """Every pixel followed by a zero, in both directions."""
    wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[:, :, ::2, ::2] = x
    return wide


def mapped(
    weights: Weights, name: str, z: Tensor | None, feats: Tensor | None, label: Tensor | None, layers: int
) -> Tensor:
    """w of a generator, or the condition of a discriminator."""
    conditions = []
    if label is not None:
        classes = weights[f"{name}.embed.weight"].shape[1]
        conditions.append(_linear(weights, f"{name}.embed", F.one_hot(label, classes).double()))
    if feats is not None:
        conditions.append(_linear(weights, f"{name}.embed_feats", feats))
    x = _unit(torch.cat(conditions, 1))
    if z is not None:
        x = torch.cat([_unit(z), x], 1)
    for index in range(layers):
        x = _activate(_linear(weights, f"{name}.fc{index}", x, 0.01), None)
    return x


def synthesised(weights: Weights, ws: Tensor, clamp: float | None, noise: bool = True) -> Tensor:
    """ws [N, latents, width] -> picture [N, 3, R, R]."""
    count, latent = len(ws), 0
    x = weights["g.synthesis.b4.const"].repeat(count, 1, 1, 1)
    image = torch.zeros(count, 3, 2, 2, dtype=torch.float64)
    side = 4
    while f"g.synthesis.b{side}.conv1.weight" in weights:
        for layer in ("conv0", "conv1", "torgb")[side == 4 :]:
            name, rgb = f"g.synthesis.b{side}.{layer}", layer == "torgb"
            kernel = weights[f"{name}.weight"]
            style = _linear(weights, f"{name}.affine", ws[:, latent])
            if rgb:  # its latent is also the next layer's
                style = style / math.sqrt(kernel.shape[1])
            else:
                latent += 1
            rows = kernel[None] * style[:, None, :, None, None]
            if not rgb:
                rows = rows / (rows.square().sum((2, 3, 4), keepdim=True) + EPS).sqrt()
            pictures = []
            for row, one in zip(rows, x, strict=True):
                one = one[None]
                if layer == "conv0":  # zeros between pixels, the kernel as a convolution, the filter
                    one = F.conv2d(F.pad(_spread_out(one), (3, 2, 3, 2)), row.flip(2, 3))
                    one = _filter(one, (0, 0, 0, 0), 4.0)
                else:
                    one = F.conv2d(one, row, padding=row.shape[-1] // 2)
                pictures.append(one[0])
            y = torch.stack(pictures)
            if rgb:
                colours = y + weights[f"{name}.bias"][:, None, None]
                colours = colours if clamp is None else colours.clamp(-clamp, clamp)
                image = _filter(_spread_out(image), (2, 1, 2, 1), 4.0) + colours
                continue
            if noise:
                y = y + weights[f"{name}.noise_const"] * weights[f"{name}.noise_strength"]
            x = _activate(y + weights[f"{name}.bias"][:, None, None], clamp)
        side *= 2
    return image


def judged(
    weights: Weights, image: Tensor, feats: Tensor | None, label: Tensor | None, clamp: float | None
) -> Tensor:
    """Logits [N, 1] of a batch that is a multiple of four rows."""

    def conv(name: str, x: Tensor, gain: float = 1.0, down: bool = False, active: bool = True) -> Tensor:
        kernel = weights[f"{name}.weight"] / math.sqrt(weights[f"{name}.weight"][0].numel())
        size = kernel.shape[-1]
        if down:
            pad = size // 2 + 1
            x = F.conv2d(_filter(x, (pad, pad, pad, pad)), kernel)[:, :, ::2, ::2]
        else:
            x = F.conv2d(x, kernel, padding=size // 2)
        if f"{name}.bias" in weights:
            x = x + weights[f"{name}.bias"][:, None, None]
        return _activate(x, clamp, gain) if active else x * gain

    x, half = image, math.sqrt(0.5)
    while (side := x.shape[-1]) > 4:
        if f"d.b{side}.fromrgb.weight" in weights:
            x = conv(f"d.b{side}.fromrgb", x)
        skip = conv(f"d.b{side}.skip", x, half, down=True, active=False)
        x = skip + conv(f"d.b{side}.conv1", conv(f"d.b{side}.conv0", x), half, down=True)
    groups = len(x) // 4
    spread = torch.empty(len(x), 1, 4, 4, dtype=torch.float64)
    for first in range(groups):
        members = x[first::groups]
        deviation = (members.var(0, unbiased=False) + EPS).sqrt().mean()
        spread[first::groups] = deviation
    x = conv("d.b4.conv", torch.cat([x, spread], 1))
    x = _activate(_linear(weights, "d.b4.fc", x.flatten(1)), None)
    x = _linear(weights, "d.b4.out", x)
    condition = mapped(weights, "d.mapping", None, feats, label, 8)
    return (x * condition).sum(1, keepdim=True) / math.sqrt(x.shape[1])
