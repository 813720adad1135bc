"""A residual block as matrix products, with fewer operators than `blocks.ProductBlock`.

`ProductBlock` takes differences along both axes before it multiplies, and so multiplies a row and a column
more than a picture has. Here differences of rows are taken before the products and those of columns after
them: the nine products of conv1 are three operators on exactly the pixels there are. On small pictures all
sums along a row are one product with a constant matrix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icgan_export.rewrite.blocks import modulate, pad, spread, winograd_input, winograd_output
from icgan_export.rewrite.fold import Affine, BlockTensors, row_kernels, winograd_kernels
from icgan_export.rewrite.matrices import column_sums, winograd_taps

# Pixels of a side up to which a product with a constant matrix takes less time than the sums it stands for.
MATRICES_UP_TO = 8


class ShiftBlock(nn.Module):
    """A block on [N, r, r, I] for one r."""

    shortcut: Tensor  # [I, O]
    bias: Tensor  # [O]
    sums: Tensor  # [2 r, 3 r]: of conv1's products along a row, even columns first
    taps: Tensor  # [4 r, 2 r]: of what conv2 multiplies

    def __init__(self, tensors: BlockTensors, side: int) -> None:
        super().__init__()
        self.side, self.dense = side, side <= MATRICES_UP_TO
        held = {"shortcut": tensors.shortcut[:, :, 0, 0].t(), "bias": tensors.bias}
        held |= {f"conv1_{kind}": matrix for kind, matrix in enumerate(row_kernels(tensors.conv1))}
        held |= {f"conv2_{kind}": matrix for kind, matrix in enumerate(winograd_kernels(tensors.conv2))}
        if self.dense:
            held |= {"sums": column_sums(side), "taps": winograd_taps(side).reshape(4 * side, 2 * side)}
        for name, matrix in held.items():
            self.register_buffer(name, matrix.to(tensors.conv1.dtype).contiguous())

    def forward(self, x: Tensor, norm1: Affine, norm2: Affine) -> Tensor:
        scale, shift = spread(norm2, channels_last=True)
        rows = self.conv1(modulate(x, norm1, channels_last=True))
        rows = [[F.relu(part * scale + shift) for part in row] for row in rows]
        quarters = self.conv2(rows)
        shortcut = x @ self.shortcut + self.bias  # the same for the four pixels it is upsampled to
        return interleave([[quarter + shortcut for quarter in row] for row in quarters])

    def conv1(self, x: Tensor) -> list[list[Tensor]]:
        """Nearest x2 and conv1: [N, r, r, I] -> even and odd rows, each of even and odd columns [N, r, r, O].

        On small pictures the even columns and after them the odd ones are one: [N, r, 2 r, O].
        """
        same = x @ self.get_buffer("conv1_0")
        ends = (x - shifted(x, 1, 1), shifted(x, 1, -1) - x)
        kinds = [same + end @ self.get_buffer(f"conv1_{1 + p}") for p, end in enumerate(ends)]
        return [self.columns(each) for each in kinds]

    def columns(self, kinds: Tensor) -> list[Tensor]:
        """The sums along a row of conv1's three kinds of products [N, r, r, 3 O]."""
        width = len(self.bias)
        if self.dense:
            return [self.sums @ kinds.reshape(-1, self.side, 3 * self.side, width)]
        total, first, last = torch.split(kinds, width, dim=3)
        return [total + first - shifted(first, 2, 1), total - last + shifted(last, 2, -1)]

    def conv2(self, rows: list[list[Tensor]]) -> list[list[Tensor]]:
        """conv2 on what `conv1` gives, to quarters [N, r, r, O]."""
        tiles = [winograd_input(even, odd, 1) for even, odd in zip(*rows, strict=True)]
        products: list[list[Tensor]] = []
        for i in range(4):
            if self.dense:
                each = torch.split(self.taps @ tiles[0][i], self.side, dim=2)
            else:
                each = tuple(winograd_input(tiles[0][i], tiles[1][i], 2))
            products.append([tile @ self.get_buffer(f"conv2_{4 * i + j}") for j, tile in enumerate(each)])
        columns = [winograd_output(kinds) for kinds in products]
        outputs = [winograd_output([column[q] for column in columns]) for q in (0, 1)]
        return [[outputs[q][p] for q in (0, 1)] for p in (0, 1)]


def shifted(x: Tensor, dim: int, by: int) -> Tensor:
    """x[i - by] along `dim` (1 or 2) of [N, h, w, C] for `by` 1 or -1, with zeros from beyond its ends.

    Not one padding by -1 at the other end: not every runtime has that.
    """
    kept = x.narrow(dim, max(0, -by), x.shape[dim] - 1)
    return pad(kept, dim, max(0, by), max(0, -by))


def interleave(quarters: list[list[Tensor]]) -> Tensor:
    """Quarters by parity of row, then of column, each [N, r, r, C] -> [N, 2 r, 2 r, C]."""
    side, width = quarters[0][0].shape[2:]
    rows = [torch.cat(row, dim=3) for row in quarters]
    return torch.cat(rows, dim=2).reshape(-1, 2 * side, 2 * side, width)
