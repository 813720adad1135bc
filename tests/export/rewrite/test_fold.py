"""Folded weights do what the weights did."""

import torch
import torch.nn.functional as F
from torch import nn

from icgan_export.rewrite import fold
from icgan_training.networks.layers import SNConv2d
from tests.export.kernels import enlarged_convolution, picture_and_kernel

EXACT = 1e-10  # in float64


def test_spectral_norm_is_one_power_step_from_the_stored_vector() -> None:
    layer = SNConv2d(3, 5, 3).double().eval()
    matrix = layer.weight.detach().flatten(1)
    right = F.normalize(layer.u0[0] @ matrix, dim=0)
    expected = layer.weight / (matrix @ right).norm()
    found = fold.fold_spectral_norm(nn.Sequential(layer))["0.weight"]
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


def test_transposed_kernel_equals_upsampling_and_convolution() -> None:
    x, kernel = picture_and_kernel()
    found = F.conv_transpose2d(x, fold.transposed_kernel(kernel), stride=2, padding=1)
    torch.testing.assert_close(found, enlarged_convolution(x, kernel), rtol=0, atol=EXACT)


def test_products_need_no_more_weights_in_conv1_than_the_kernel_has() -> None:
    _, kernel = picture_and_kernel()
    assert sum(matrix.numel() for matrix in fold.difference_kernels(kernel).values()) == kernel.numel()
