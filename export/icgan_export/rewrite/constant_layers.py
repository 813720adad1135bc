"""Layers around weights that are given and not trained."""

from __future__ import annotations

from torch import Tensor, nn


class Linear(nn.Module):
    """[N, I] -> [N, O] as a product and a sum. Torch writes its own as Gemm, which tract has not in FP16."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = constant(weight.t().contiguous()), constant(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def linear(weight: Tensor, bias: Tensor) -> Linear:
    """A matrix product with weight [O, I] and bias [O]."""
    return Linear(weight, bias)


def conv(weight: Tensor, bias: Tensor | None, padding: int = 0) -> nn.Conv2d:
    """A convolution of stride 1 with a square kernel [O, I, k, k]."""
    out_channels, in_channels, size, _ = weight.shape
    layer = nn.Conv2d(in_channels, out_channels, size, padding=padding, bias=bias is not None, device="meta")
    layer.weight = constant(weight)
    if bias is not None:
        layer.bias = constant(bias)
    return layer


def transposed(weight: Tensor) -> nn.ConvTranspose2d:
    """A transposed convolution of stride 2 with a kernel [I, O, 4, 4]: twice the width and height."""
    in_channels, out_channels, size, _ = weight.shape
    layer = nn.ConvTranspose2d(in_channels, out_channels, size, 2, 1, bias=False, device="meta")
    layer.weight = constant(weight)
    return layer


def scattered(weight: Tensor, bias: Tensor, padding: int = 0) -> nn.ConvTranspose2d:
    """`conv` as a transposed convolution of stride 1: one product for all taps, added up afterwards.

    For few output channels, of which a convolution fills a vector only in part.
    """
    out_channels, in_channels, size, _ = weight.shape
    layer = nn.ConvTranspose2d(in_channels, out_channels, size, 1, size - 1 - padding, device="meta")
    layer.weight, layer.bias = constant(weight.transpose(0, 1).flip(2, 3).contiguous()), constant(bias)
    return layer


def constant(tensor: Tensor) -> nn.Parameter:
    """A copy that no gradient flows to."""
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
