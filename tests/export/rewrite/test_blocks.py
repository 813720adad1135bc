"""Every form of a block computes what upsampling and convolving does."""

import pytest
import torch
import torch.nn.functional as F

from icgan_export.rewrite.blocks import PhaseConv, ProductBlock, interleave
from icgan_export.rewrite.fold import BlockTensors
from icgan_export.rewrite.shifts import ShiftBlock
from tests.export.kernels import enlarged_convolution, picture_and_kernel

EXACT = 1e-10  # in float64


def test_phase_convolution_equals_upsampling_and_convolution() -> None:
    x, kernel = picture_and_kernel()
    torch.testing.assert_close(PhaseConv(kernel)(x), enlarged_convolution(x, kernel), rtol=0, atol=EXACT)


def test_nine_products_equal_upsampling_and_convolution() -> None:
    x, kernel = picture_and_kernel()
    zeros = kernel.new_zeros(4)
    tensors = BlockTensors(kernel, kernel.new_zeros(4, 4, 3, 3), kernel[:, :, :1, :1], zeros)
    quarters = ProductBlock(tensors).conv1(x.permute(0, 2, 3, 1))
    found = interleave(quarters).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, enlarged_convolution(x, kernel), rtol=0, atol=EXACT)


@pytest.mark.parametrize("side", [4, 16])  # with constant matrices along a row, and without
def test_shifts_equal_products(side: int) -> None:
    rng = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    tensors = BlockTensors(random(5, 4, 3, 3), random(5, 5, 3, 3), random(5, 4, 1, 1), random(5))
    x, norm1, norm2 = (
        random(2, side, side, 4),
        (random(2, 4), random(2, 4)),
        (random(2, 5), random(2, 5)),
    )
    found = ShiftBlock(tensors, side)(x, norm1, norm2)
    torch.testing.assert_close(found, ProductBlock(tensors)(x, norm1, norm2), rtol=0, atol=EXACT)


def test_winograd_products_equal_the_convolution() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 6, 6, generator=rng, dtype=torch.float64)
    kernel = torch.randn(4, 4, 3, 3, generator=rng, dtype=torch.float64)
    block = ProductBlock(BlockTensors(kernel, kernel, kernel[:, :, :1, :1], kernel.new_zeros(4)))
    rows = x.permute(0, 2, 3, 1)
    quarters = [[rows[:, p::2, q::2] for q in (0, 1)] for p in (0, 1)]
    found = interleave(block.conv2(quarters)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, F.conv2d(x, kernel, padding=1), rtol=0, atol=EXACT)
