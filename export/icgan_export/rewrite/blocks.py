"""The forms of a residual block: conv2(relu(norm(conv1(upsample(relu(norm(x))))))) beside a shortcut."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icgan_export.rewrite.choice import BlockForm
from icgan_export.rewrite.constant_layers import conv, transposed
from icgan_export.rewrite.fold import (
    Affine,
    BlockTensors,
    difference_kernels,
    phase_kernel,
    transposed_kernel,
    winograd_kernels,
)

# A picture [N, 2r, 2r, C] in quarters: [row parity][column parity] -> [N, r, r, C].
Phases = list[list[Tensor]]


class ConvBlock(nn.Module):
    """A block as convolutions on [N, C, h, w]."""

    def __init__(self, tensors: BlockTensors, form: BlockForm, early_shortcut: bool) -> None:
        super().__init__()
        self.early_shortcut = early_shortcut
        self.conv1: nn.Module
        if form == "transposed":
            self.conv1 = transposed(transposed_kernel(tensors.conv1))
        elif form == "phases":
            self.conv1 = PhaseConv(tensors.conv1)
        else:
            self.conv1 = nn.Sequential(nn.Upsample(scale_factor=2.0), conv(tensors.conv1, None, padding=1))
        self.conv2 = conv(tensors.conv2, None, padding=1)
        self.shortcut = conv(tensors.shortcut, tensors.bias)

    def forward(self, x: Tensor, norm1: Affine, norm2: Affine) -> Tensor:
        h: Tensor = self.conv1(modulate(x, norm1))
        h = self.conv2(modulate(h, norm2))
        shortcut = _upsample(self.shortcut(x)) if self.early_shortcut else self.shortcut(_upsample(x))
        return h + shortcut


class PhaseConv(nn.Module):
    """Nearest x2 and a 3x3 convolution as one 2x2 convolution on the small picture and an interleave."""

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.conv = conv(phase_kernel(kernel), None, padding=1)  # one row and column more than needed

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2]
        phases = self.conv(x).chunk(4, dim=1)
        cut = [phases[2 * p + q].narrow(2, p, size).narrow(3, q, size) for p in (0, 1) for q in (0, 1)]
        return F.pixel_shuffle(torch.stack(cut, dim=2).flatten(1, 2), 2)


class ProductBlock(nn.Module):
    """A block as matrix products and sums on [N, h, w, C]; in between the picture stays in four quarters."""

    conv1_sum: Tensor  # [I, O]
    conv1_columns: Tensor  # [I, 2 O]
    conv1_rows: Tensor  # [I, 2 O]
    conv1_both: Tensor  # [I, 4 O]
    shortcut: Tensor  # [I, O]
    bias: Tensor  # [O]

    def __init__(self, tensors: BlockTensors) -> None:
        super().__init__()
        for name, matrix in difference_kernels(tensors.conv1).items():
            self.register_buffer(f"conv1_{name}", matrix)
        for index, matrix in enumerate(winograd_kernels(tensors.conv2)):
            self.register_buffer(f"conv2_{index}", matrix.contiguous())
        self.register_buffer("shortcut", tensors.shortcut[:, :, 0, 0].t().contiguous())
        self.register_buffer("bias", tensors.bias)

    def forward(self, x: Tensor, norm1: Affine, norm2: Affine) -> Tensor:
        h = self.conv1(modulate(x, norm1, channels_last=True))
        scale, shift = spread(norm2, channels_last=True)  # once: the tracer looks at every operator
        h = [[F.relu(phase * scale + shift) for phase in row] for row in h]
        h = self.conv2(h)
        shortcut = x @ self.shortcut + self.bias  # the same for the four pixels it is upsampled to
        return interleave([[phase + shortcut for phase in row] for row in h])

    def conv1(self, x: Tensor) -> Phases:
        """Nearest x2 and conv1: [N, r, r, I] -> quarters [N, r, r, O]."""
        size = x.shape[1]
        columns = _differences(x, 2)
        rows = _differences(x, 1)
        both = _differences(columns, 1)
        total = x @ self.conv1_sum
        by_column = (columns @ self.conv1_columns).chunk(2, dim=3)
        by_row = (rows @ self.conv1_rows).chunk(2, dim=3)
        by_both = (both @ self.conv1_both).chunk(4, dim=3)
        in_row = [total + by_column[q].narrow(2, q, size) for q in (0, 1)]
        return [
            [
                in_row[q]
                + by_row[p].narrow(1, p, size)
                + by_both[2 * p + q].narrow(1, p, size).narrow(2, q, size)
                for q in (0, 1)
            ]
            for p in (0, 1)
        ]

    def conv2(self, phases: Phases) -> Phases:
        """conv2 on quarters [N, r, r, O], to quarters."""
        by_row = [winograd_input(phases[0][q], phases[1][q], 1) for q in (0, 1)]
        products = []
        for i in range(4):
            for j, tile in enumerate(winograd_input(by_row[0][i], by_row[1][i], 2)):
                products.append(tile @ self.get_buffer(f"conv2_{4 * i + j}"))
        columns = [winograd_output(products[4 * i : 4 * i + 4]) for i in range(4)]
        outputs = [winograd_output([column[q] for column in columns]) for q in (0, 1)]
        return [[outputs[q][p] for q in (0, 1)] for p in (0, 1)]


def modulate(x: Tensor, affine: Affine, channels_last: bool = False) -> Tensor:
    """relu(x * scale + shift), scale and shift [N, C] broadcast over the picture."""
    scale, shift = spread(affine, channels_last)
    return F.relu(x * scale + shift)


def spread(affine: Affine, channels_last: bool) -> Affine:
    """Scale and shift [N, C] with the axes over which they are the same: [N, 1, 1, C], or [N, C, 1, 1].

    No slices: each `:` would be one more operator to trace. What has these axes already is left alone.
    """
    scale, shift = affine
    if scale.dim() == 4:
        return affine
    if channels_last:
        return scale.unsqueeze(1).unsqueeze(1), shift.unsqueeze(1).unsqueeze(1)
    return scale.unsqueeze(2).unsqueeze(3), shift.unsqueeze(2).unsqueeze(3)


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _differences(x: Tensor, dim: int) -> Tensor:
    """x[i] - x[i-1] along `dim` for i = 0 .. size, with zeros around x: one entry more than x has."""
    return pad(x, dim, 0, 1) - pad(x, dim, 1, 0)


def winograd_input(even: Tensor, odd: Tensor, dim: int) -> list[Tensor]:
    """The four input tiles of F(2, 3) along `dim` from even and odd entries of a zero-padded signal."""
    size = even.shape[dim]
    before = pad(odd.narrow(dim, 0, size - 1), dim, 1, 0)
    after = pad(even.narrow(dim, 1, size - 1), dim, 0, 1)
    return [before - odd, even + odd, odd - even, even - after]


def winograd_output(products: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The even and the odd outputs of F(2, 3)."""
    middle = products[1] + products[2], products[1] - products[2]
    return products[0] + middle[0], middle[1] - products[3]


def pad(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Zeros around `dim` (1 or 2) of [N, h, w, C]."""
    return F.pad(x, (0, 0, before, after) if dim == 2 else (0, 0, 0, 0, before, after))


def interleave(phases: Phases) -> Tensor:
    """Quarters [N, r, r, C] -> [N, 2 r, 2 r, C]."""
    rows = [torch.stack(row, dim=3) for row in phases]  # [N, r, r, 2, C]
    return torch.stack(rows, dim=2).flatten(3, 4).flatten(1, 2)
