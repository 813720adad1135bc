"""Exact rewrites of the encoder: uint8 picture in, unit embedding out, with nothing done at full size twice.

Each can be switched off alone (`EncoderRewrites`), is folded in float64 and tested there to 1e-10.

    normalisation   the mean subtracted from the small picture: subtracting a constant commutes with the
                    resize, and the network's own zero padding keeps meaning "the mean colour";
                    1 / (255 std) inside the first convolution's kernel
    resize          enlargement is linear and separable: two small matrix products, which every
                    runtime computes alike and at full speed, instead of a Resize operator with dialects
    batch_norm      every batch norm inside the convolution before it
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icgan_training.networks.encoder import Encoder, first_convolution, fold_batch_norm

NORM_EPS = 1e-12  # of F.normalize


@dataclass(frozen=True)
class EncoderRewrites:
    """Which rewrites to apply."""

    normalisation: bool = True
    resize: bool = True
    batch_norm: bool = True

    @classmethod
    def none(cls) -> EncoderRewrites:
        """The encoder as published, for bytes of one size."""
        return cls(False, False, False)


def rewrite_encoder(encoder: Encoder, size: int, rewrites: EncoderRewrites | None = None) -> nn.Module:
    """The same function as `encoder` on uint8 pictures of one size [N, size, size, 3], in its dtype.

    All rewrites where none are named; the encoder is left as it is.
    """
    dtype = next(encoder.parameters()).dtype
    exact = copy.deepcopy(encoder).double().eval()
    return RewrittenEncoder(exact, size, rewrites or EncoderRewrites()).to(dtype).eval()


def unit_rows(x: Tensor) -> Tensor:
    """[N, D] with rows of length 1, as `F.normalize`: square, sum, root and quotient.

    ONNX's own ReduceL2 takes its axes as an input, which MNN's converter ignores: it would divide by the norm
    of the whole batch.
    """
    squares = (x * x).sum(dim=1, keepdim=True)
    return x / squares.clamp_min(NORM_EPS**2).sqrt()


def resize_matrix(size: int, enlarged: int, mode: str) -> Tensor:
    """[enlarged, size] in float64: what F.interpolate (align_corners=False) does to a column."""
    columns = torch.eye(size, dtype=torch.float64).view(size, 1, size, 1)
    resized = F.interpolate(columns, size=(enlarged, 1), mode=mode, align_corners=False)
    return resized[:, 0, :, 0].t().contiguous()


class RewrittenEncoder(nn.Module):
    """uint8 [N, size, size, 3] -> [N, D], unit rows; owns and changes the encoder it is given, in float64."""

    mean: Tensor  # [1, 3, 1, 1], on the [0, 255] scale
    std: Tensor  # [1, 3, 1, 1], on the [0, 255] scale
    rows: Tensor  # [enlarged, size]
    columns: Tensor  # [size, enlarged]

    def __init__(self, encoder: Encoder, size: int, rewrites: EncoderRewrites) -> None:
        super().__init__()
        self.backbone, self.rewrites = encoder.backbone, rewrites
        self.enlarged, self.mode = encoder.config.input_size, encoder.config.resize
        self.resizes = size != self.enlarged
        self.register_buffer("mean", 255 * encoder.mean)
        self.register_buffer("std", 255 * encoder.std)
        first = first_convolution(encoder)
        self.folds = rewrites.normalisation and first is not None
        if self.folds and first is not None:
            with torch.no_grad():
                first.weight /= self.std
        if rewrites.batch_norm:
            fold_batch_norm(self.backbone).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for (
            module
        ) in self.backbone.modules():  # in place saves a graph nothing, and doubles the tracer's work
            if hasattr(module, "inplace"):
                module.inplace = False  # type: ignore[assignment]
        if self.resizes and rewrites.resize:
            matrix = resize_matrix(size, self.enlarged, self.mode)
            self.register_buffer("rows", matrix)
            self.register_buffer("columns", matrix.t().contiguous())

    def forward(self, image: Tensor) -> Tensor:
        # numbers first: TensorRT knows bytes only at a network's ends
        x = image.to(self.mean.dtype).permute(0, 3, 1, 2)
        x = self.enlarge(x - self.mean) if self.folds else (self.enlarge(x) - self.mean) / self.std
        return unit_rows(self.backbone(x))

    def enlarge(self, x: Tensor) -> Tensor:
        """[N, 3, size, size] to the network's own input size."""
        if not self.resizes:
            return x
        if self.rewrites.resize:
            return self.rows @ x @ self.columns
        size = (self.enlarged, self.enlarged)
        return F.interpolate(x, size=size, mode=self.mode, align_corners=False)
