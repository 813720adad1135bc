"""Exact rewrites of the encoder: uint8 picture in, unit embedding out, with nothing done at full size twice.

    mean        subtracted from the small picture: subtracting a constant commutes with the resize, and the
                network's own zero padding keeps meaning "the mean colour"
    scale       1 / (255 std) inside the first convolution's kernel
    resize      bicubic enlargement is linear and separable: two small matrix products, which every runtime
                computes alike and at full speed, instead of a Resize operator with dialects

Batch norm goes into the convolution before it after tracing (`graph.fold_batch_norm`).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icgan_training.encoder import Encoder


def rewrite_encoder(encoder: Encoder, size: int) -> nn.Module:
    """The same function as `encoder` on uint8 pictures of one size [N, size, size, 3]."""
    return RewrittenEncoder(copy.deepcopy(encoder), size).eval()


def bicubic_matrix(size: int, enlarged: int) -> Tensor:
    """[enlarged, size] in float64: what bicubic interpolation (align_corners=False) does to a column."""
    columns = torch.eye(size, dtype=torch.float64).view(size, 1, size, 1)
    resized = F.interpolate(columns, size=(enlarged, 1), mode="bicubic", align_corners=False)
    return resized[:, 0, :, 0].t().contiguous()


class RewrittenEncoder(nn.Module):
    """uint8 [N, size, size, 3] -> [N, D], unit rows; owns and changes the encoder it is given."""

    mean: Tensor  # [1, 3, 1, 1], on the [0, 255] scale
    rows: Tensor  # [enlarged, size]
    columns: Tensor  # [size, enlarged]

    def __init__(self, encoder: Encoder, size: int) -> None:
        super().__init__()
        self.backbone = encoder.backbone
        first = next(module for module in self.backbone.modules() if isinstance(module, nn.Conv2d))
        dtype = first.weight.dtype
        with torch.no_grad():
            first.weight /= 255 * encoder.std.to(dtype)
        self.register_buffer("mean", (255 * encoder.mean).to(dtype))
        enlarged = encoder.config.input_size
        self.resizes = size != enlarged
        if self.resizes:
            matrix = bicubic_matrix(size, enlarged).to(dtype)
            self.register_buffer("rows", matrix)
            self.register_buffer("columns", matrix.t().contiguous())

    def forward(self, image: Tensor) -> Tensor:
        # numbers first: TensorRT knows bytes only at a network's ends
        x = image.to(self.mean.dtype).permute(0, 3, 1, 2) - self.mean
        if self.resizes:
            x = self.rows @ x @ self.columns
        return F.normalize(self.backbone(x), dim=1)
