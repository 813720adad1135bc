"""The algebra of the rewrites: a trained generator's weights in, the weights of the same function out.

Plain functions of tensors, in float64 when `rewritten.rewrite` calls them. Kernels are [O, I, h, w] as torch
has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from icgan_training.networks.layers import BATCH_NORM_EPS, SpectralNorm

Weights = Mapping[str, Tensor]
Affine = tuple[Tensor, Tensor]  # scale and shift of one norm, each [N, C]


def fold_spectral_norm(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor of `module`, with each spectrally normalised weight divided by its norm."""
    weights = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    for name, layer in module.named_modules():
        if isinstance(layer, SpectralNorm):
            weights[f"{name}.weight"] = layer.normalised_weight().detach()
    return weights


@dataclass(frozen=True)
class FoldedNorm:
    """A conditional batch norm as scale and shift, both affine in the condition y of its block."""

    block: int
    scale: Tensor  # [C, Y]
    scale_bias: Tensor  # [C]
    shift: Tensor
    shift_bias: Tensor


def fold_statistics(weights: Weights, block: int, name: str, bias_before: Tensor | None) -> FoldedNorm:
    """The conditional batch norm `name` of a block, of (x + bias_before), as x * scale(y) + shift(y).

    With gain 1 + Wg y, bias Wh y and r = 1 / sqrt(var + eps), the scale is r + r Wg y and the shift
    Wh y + (bias_before - mean) (r + r Wg y).
    """
    norm = f"blocks.{block}.0.{name}"
    mean, var = weights[f"{norm}.stored_mean"], weights[f"{norm}.stored_var"]
    inverse = torch.rsqrt(var + BATCH_NORM_EPS)
    offset = -mean if bias_before is None else bias_before - mean
    scale = inverse[:, None] * weights[f"{norm}.gain.weight"]
    shift = weights[f"{norm}.bias.weight"] + offset[:, None] * scale
    return FoldedNorm(block, scale, inverse, shift, offset * inverse)


def fold_output_norm(weights: Weights) -> tuple[Tensor, Tensor]:
    """The last batch norm, which no condition changes, as scale and shift [C]."""
    norm = "output_layer.0"
    scale = weights[f"{norm}.gain"] * torch.rsqrt(weights[f"{norm}.stored_var"] + BATCH_NORM_EPS)
    return scale, weights[f"{norm}.bias"] - weights[f"{norm}.stored_mean"] * scale


def transposed_kernel(kernel: Tensor) -> Tensor:
    """[O, I, 3, 3] after nearest x2 -> [I, O, 4, 4] of a transposed convolution, stride 2, padding 1.

    Tap k of the transposed kernel adds x[i] to output 2i - 1 + k.
    """
    taps = kernel.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
    return torch.einsum("oiyx,ay,bx->ioab", kernel, taps, taps).contiguous()


def phase_kernel(kernel: Tensor) -> Tensor:
    """[O, I, 3, 3] after nearest x2 -> [4 O, I, 2, 2]: one 2x2 kernel for each output phase."""
    taps = kernel.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # [phase, tap, source tap]
    phases = torch.einsum("oiyx,pay,qbx->pqoiab", kernel, taps, taps)
    return phases.flatten(0, 2).contiguous()


def difference_kernels(kernel: Tensor) -> dict[str, Tensor]:
    """[O, I, 3, 3] after nearest x2 -> the nine [I, O] matrices, those of one source side by side.

    `sum` acts on x, `columns` [I, 2 O] on its differences along a row, `rows` [I, 2 O] on those along a
    column, `both` [I, 4 O] on the differences of the differences.

    Along one axis, the upsampled row under the taps (w0, w1, w2) is, for s = w0 + w1 + w2,

        y[2i]     = w0 x[i-1] + (w1 + w2) x[i]   =  s x[i] - w0 (x[i] - x[i-1])
        y[2i + 1] = (w0 + w1) x[i] + w2 x[i+1]   =  s x[i] + w2 (x[i+1] - x[i])

    so three products give two outputs, where the phases take four; on two axes nine instead of sixteen, with
    no more weights than the 3x3 kernel has, and coefficients of +-1 that cost no precision.
    """
    total, first, last = kernel.new_tensor([[1, 1, 1], [-1, 0, 0], [0, 0, 1]])

    def matrix(*pairs: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat([torch.einsum("oiyx,y,x->io", kernel, row, column) for row, column in pairs], dim=1)

    ends = (first, last)
    return {
        "sum": matrix((total, total)),
        "columns": matrix(*((total, end) for end in ends)),
        "rows": matrix(*((end, total) for end in ends)),
        "both": matrix(*((row, column) for row in ends for column in ends)),
    }


def row_kernels(kernel: Tensor) -> list[Tensor]:
    """The same nine matrices in three groups [I, 3 O]: for x, and for its differences along a column.

    Each group acts on the sum along a row, on the differences to the left and on those to the right, side by
    side, so that one axis can be summed before the products and the other after them.
    """
    held = difference_kernels(kernel)
    width = len(kernel)
    rows, both = torch.split(held["rows"], width, dim=1), torch.split(held["both"], 2 * width, dim=1)
    return [
        torch.cat([held["sum"], held["columns"]], dim=1),
        *(torch.cat([row, pair], dim=1) for row, pair in zip(rows, both, strict=True)),
    ]


def winograd_kernels(kernel: Tensor) -> Tensor:
    """[O, I, 3, 3] -> [16, I, O], the kernel in the domain of Winograd's F(2x2, 3x3) (Lavin & Gray 2016)."""
    basis = kernel.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.einsum("oiyx,ay,bx->abio", kernel, basis, basis).flatten(0, 1).contiguous()


def scale_outputs(weight: Tensor, scale: Tensor) -> Tensor:
    """A convolution's kernel [O, I, h, w] with output channel o multiplied by scale[o]."""
    return weight * scale[:, None, None, None]


@dataclass(frozen=True)
class BlockTensors:
    """A block's kernels. conv1's bias is in the second norm's shift; conv2's and the shortcut's are one."""

    conv1: Tensor  # [O, I, 3, 3]
    conv2: Tensor  # [O, O, 3, 3]
    shortcut: Tensor  # [O, I, 1, 1]
    bias: Tensor  # [O]

    @classmethod
    def read(cls, weights: Weights, block: str) -> BlockTensors:
        """Of the block whose tensors' names begin with `block`."""
        conv1, conv2, shortcut = (weights[f"{block}.{name}.weight"] for name in ("conv1", "conv2", "conv_sc"))
        return cls(conv1, conv2, shortcut, weights[f"{block}.conv2.bias"] + weights[f"{block}.conv_sc.bias"])

    def scaled(self, scale: Tensor, shift: Tensor) -> BlockTensors:
        """The block followed by x * scale + shift."""
        conv2, shortcut = scale_outputs(self.conv2, scale), scale_outputs(self.shortcut, scale)
        return BlockTensors(self.conv1, conv2, shortcut, self.bias * scale + shift)
