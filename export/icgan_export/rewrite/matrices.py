"""A residual block in which sums, too, are matrix products: fewer, larger operators.

`blocks.ProductBlock` adds and subtracts a hundred small tensors around its products, and a small model spends
its time starting them. Here the same sums are products with constant matrices along the spatial axes, and the
products of a convolution are one batched product where pictures are large enough for that. Shapes: N pictures
of side r, I channels in, O out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from icgan_export.rewrite.blocks import modulate
from icgan_export.rewrite.fold import Affine, BlockTensors, difference_kernels, winograd_kernels

# Pixels of a side up to which both axes are one matrix (above, one product for each is less work), and up to
# which every product has an operator of its own: runtimes arrange the weights of a batched one anew in every
# run, which takes longer than the product itself where a picture has 16 rows.
DENSE_UP_TO = 4


class MatrixBlock(nn.Module):
    """A block on [N, r, r, I] for one r."""

    shortcut: Tensor  # [I, O]
    bias: Tensor  # [O]
    sums1: Tensor  # [4, 9], of the products of conv1 to quarters
    sums2: Tensor  # [4, 16]

    def __init__(self, tensors: BlockTensors, side: int) -> None:
        super().__init__()
        self.side, self.dense = side, side <= DENSE_UP_TO
        held = {
            "shortcut": tensors.shortcut[:, :, 0, 0].t(),
            "bias": tensors.bias,
            "sums1": both_axes(tensors.conv1.new_tensor([[1, 1, 0], [1, 0, 1]])),
            "sums2": both_axes(tensors.conv1.new_tensor([[1, 1, 1, 0], [0, 1, -1, -1]])),
        }
        held |= self.convolution("1", nine_kernels(tensors.conv1), difference_taps(side))
        held |= self.convolution("2", winograd_kernels(tensors.conv2), winograd_taps(side))
        for name, matrix in held.items():
            self.register_buffer(name, matrix.to(tensors.conv1.dtype).contiguous())

    def convolution(self, name: str, kernels: Tensor, taps: Tensor) -> dict[str, Tensor]:
        """What `apart` and `multiply` need: kernels [kinds, I, O], taps [root of kinds, r, phases, r]."""
        if self.dense:
            both = torch.einsum("aipj,bkql->abikpqjl", taps, taps).flatten(4).flatten(0, 3)
            return {f"taps{name}": both} | {f"conv{name}_{kind}": each for kind, each in enumerate(kernels)}
        along = taps.flatten(2)
        return {f"conv{name}": kernels, f"rows{name}": along.flatten(0, 1), f"columns{name}": along[:, None]}

    def forward(self, x: Tensor, norm1: Affine, norm2: Affine) -> Tensor:
        r, width = self.side, len(self.bias)
        products = self.multiply("1", self.apart("1", modulate(x, norm1, channels_last=True)))
        quarters = self.sums1 @ products.flatten(2)  # [N, 4, r r O]
        h = quarters.reshape(-1, 4, r * r, width)
        if not self.dense:  # [N, (row, its parity), (column, its parity), O]
            h = h.reshape(-1, 2, 2, r, r, width).transpose(2, 3).reshape(-1, 2 * r, 2 * r, width)
        products = self.multiply("2", self.apart("2", modulate(h, norm2, channels_last=True)))
        quarters = (self.sums2 @ products.flatten(2)).reshape(-1, 4, r * r, width)
        shortcut = (x @ self.shortcut + self.bias).reshape(-1, 1, r * r, width)  # alike for its four pixels
        both = (quarters + shortcut).reshape(-1, 2, 2, r, r, width)
        return both.permute(0, 3, 1, 4, 2, 5).reshape(-1, 2 * r, 2 * r, width)

    def apart(self, conv: str, x: Tensor) -> Tensor:
        """The sums that a convolution multiplies: [N, kinds, r r, C] of a picture or of its quarters."""
        r, width = self.side, x.shape[3]
        if self.dense:
            taps: Tensor = self.get_buffer(f"taps{conv}")
            return (taps @ x.reshape(-1, taps.shape[1], width)).reshape(-1, len(taps) // r**2, r * r, width)
        rows, columns = self.get_buffer(f"rows{conv}"), self.get_buffer(f"columns{conv}")
        kinds, side = len(columns), columns.shape[3]
        high: Tensor = rows @ x.reshape(-1, side, side * width)  # [N, kinds r, side C]
        apart = columns @ high.reshape(-1, 1, r, side, width)  # [N kinds, kinds, r, r, C]
        return apart.reshape(-1, kinds**2, r * r, width)

    def multiply(self, conv: str, parts: Tensor) -> Tensor:
        """[N, kinds, r r, C] times the kernel of each kind -> [N, kinds, r r, O]."""
        if not self.dense:
            return parts @ self.get_buffer(f"conv{conv}")
        group = math.isqrt(parts.shape[1])  # at a time: a WebGPU shader may bind 8 tensors
        products = []
        for number, some in enumerate(torch.split(parts, group, dim=1)):
            kernels = [self.get_buffer(f"conv{conv}_{group * number + index}") for index in range(group)]
            each = [part @ kernel for part, kernel in zip(torch.split(some, 1, dim=1), kernels, strict=True)]
            products.append(torch.cat(each, dim=1))
        return torch.cat(products, dim=1)


def nine_kernels(kernel: Tensor) -> Tensor:
    """[O, I, 3, 3] after nearest x2 -> [9, I, O]: those of `difference_kernels` one after the other."""
    found = {name: torch.split(part, len(kernel), dim=1) for name, part in difference_kernels(kernel).items()}
    (total,), columns, rows, both = (found[name] for name in ("sum", "columns", "rows", "both"))
    return torch.stack([total, *columns, rows[0], *both[:2], rows[1], *both[2:]])


def both_axes(sums: Tensor) -> Tensor:
    """[m, k] along one axis -> [m m, k k] along both."""
    return torch.kron(sums, sums)


def difference_taps(side: int) -> Tensor:
    """[3, r, 1, r]: a signal, what each entry adds to the one before, and what the next adds to it."""
    same, before = _same_and_before(side)
    return torch.stack([same, same - before, before.t() - same])[:, :, None]


def column_sums(side: int) -> Tensor:
    """[2 r, 3 r]: even, then odd entries of conv1's result from, at each entry, the product of the signal and
    those of what `difference_taps` gives."""
    same, before = _same_and_before(side)
    none = torch.zeros_like(same)
    even, odd = [same, same - before, none], [same, none, before.t() - same]
    return torch.stack([torch.stack(kinds, dim=2) for kinds in (even, odd)]).reshape(2 * side, 3 * side)


def winograd_taps(side: int) -> Tensor:
    """[4, r, 2, r]: the input tiles of F(2, 3) from the even and the odd entries of a zero-padded signal."""
    same, before = _same_and_before(side)
    none = torch.zeros_like(same)
    even = torch.stack([none, same, -same, same - before.t()])
    odd = torch.stack([before - same, same, same, none])
    return torch.stack([even, odd], dim=2)


def _same_and_before(side: int) -> tuple[Tensor, Tensor]:
    """[r, r] that pick x[i], and x[i - 1] or zero."""
    return torch.eye(side, dtype=torch.float64), torch.diag(torch.ones(side - 1, dtype=torch.float64), -1)
