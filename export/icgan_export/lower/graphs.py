"""The encoder and generator graphs as docs/format.md has them: byte pictures in and out, names, metadata."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from torch import Tensor, nn

from icgan_export.lower import passes
from icgan_export.lower.onnx_encoder import around_graph
from icgan_export.lower.onnx_export import TRACED_BATCH, Step, export_onnx, finish, say_nothing
from icgan_export.rewrite.backbones import AnyRewrites, rewritten
from icgan_export.rewrite.encoder import EncoderRewrites, rewrite_encoder
from icgan_training.networks.backbones import AnyConfig, AnyGenerator
from icgan_training.networks.encoder import Encoder
from icgan_training.networks.stylegan2.config import StyleGAN2Config


class GraphGenerator(nn.Module):
    """A generator behind the inputs its graph has, in the same order, with its output.

    Bytes [N, R, R, 3] are round(clamp((x + 1) * 127.5, 0, 255)). They are made last: TensorRT knows bytes
    only at a network's ends. `truncated`: the last input is the truncation [N] towards the mean w, where
    whatever is beyond 1, infinity too, is none.
    """

    def __init__(
        self, generator: nn.Module, config: AnyConfig, as_bytes: bool, truncated: bool = False
    ) -> None:
        super().__init__()
        self.generator, self.config = generator, config
        self.as_bytes, self.truncated = as_bytes, truncated

    def forward(
        self,
        noise: Tensor,
        first: Tensor | None = None,
        second: Tensor | None = None,
        third: Tensor | None = None,
    ) -> Tensor:
        given = iter((first, second, third))
        embedding = next(given) if self.config.takes_embedding else None
        label = next(given) if self.config.takes_label else None
        inputs = [noise, embedding, label]
        if self.truncated:
            psi = next(given)
            assert psi is not None
            inputs.append(psi.clamp(max=1.0))
        image: Tensor = self.generator(*inputs).float()
        if not self.as_bytes:
            return image
        if isinstance(self.config, StyleGAN2Config):  # whose pictures go beyond [-1, 1]; others end in tanh
            image = torch.maximum(torch.minimum(image, image.new_tensor(1.0)), image.new_tensor(-1.0))
        levels = ((image + 1) * 127.5).round().clamp(0, 255)
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


def generator_graph(
    generator: AnyGenerator,
    rewrites: AnyRewrites,
    metadata: Mapping[str, str],
    image_dtype: str = "uint8",
    step: Step = say_nothing,
    truncated: bool = False,
) -> onnx.ModelProto:
    """The generator as a graph; `image_dtype` "float32" gives [N, 3, R, R] in [-1, 1] instead of bytes.

    On StyleGAN2 that is around [-1, 1]: nothing holds a picture within it but the conversion to bytes.
    truncated: with the input `truncation`, for a generator that is truncated towards its mean w.
    """
    config = generator.config
    as_bytes = image_dtype == "uint8"
    module = GraphGenerator(rewritten(generator, rewrites), config, as_bytes, truncated)
    inputs = {"noise": torch.randn(TRACED_BATCH, config.dim_z)}
    if config.embedding_dim is not None:
        embedding = torch.randn(TRACED_BATCH, config.embedding_dim)
        inputs["embedding"] = nn.functional.normalize(embedding, dim=1)
    if config.takes_label:
        inputs["label"] = torch.zeros(TRACED_BATCH, dtype=torch.int64)
    if truncated:
        inputs["truncation"] = torch.ones(TRACED_BATCH)
    return passes.clean(export_onnx(module, inputs, ["image"], metadata, step))


def encoder_graph(
    encoder: Encoder,
    size: int,
    metadata: Mapping[str, str],
    rewrites: EncoderRewrites | None = None,
    step: Step = say_nothing,
) -> onnx.ModelProto:
    """The encoder for uint8 pictures [N, size, size, 3], with all rewrites where none are named.

    One that is an ONNX file is not traced: its own graph is taken, and has one form.
    """
    if encoder.config.is_graph:
        return passes.clean(finish(around_graph(encoder, size), metadata))
    pictures = torch.randint(0, 256, (TRACED_BATCH, size, size, 3), dtype=torch.uint8)
    module = rewrite_encoder(encoder, size, rewrites)
    return passes.clean(export_onnx(module, {"image": pictures}, ["embedding"], metadata, step))
