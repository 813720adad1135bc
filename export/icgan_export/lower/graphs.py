"""The encoder and generator graphs of contract section 5: byte pictures in and out, names, metadata."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from torch import Tensor, nn

from icgan_export.lower import passes
from icgan_export.lower.onnx_export import TRACED_BATCH, Step, export_onnx, say_nothing
from icgan_export.rewrite.choice import Rewrites
from icgan_export.rewrite.encoder import EncoderRewrites, rewrite_encoder
from icgan_export.rewrite.whole import rewrite
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.encoder import Encoder
from icgan_training.networks.generator import Generator


class GraphGenerator(nn.Module):
    """A generator behind the inputs its graph has, in the contract's order, with the contract's output.

    Bytes [N, R, R, 3] are round(clamp((x + 1) * 127.5, 0, 255)). They are made last: TensorRT knows bytes
    only at a network's ends.
    """

    def __init__(self, generator: nn.Module, config: ModelConfig, as_bytes: bool) -> None:
        super().__init__()
        self.generator, self.config, self.as_bytes = generator, config, as_bytes

    def forward(self, noise: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> Tensor:
        if not self.config.takes_embedding:
            first, second = None, first
        image: Tensor = self.generator(noise, first, second).float()
        if not self.as_bytes:
            return image
        levels = ((image + 1) * 127.5).round().clamp(0, 255)
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


def generator_graph(
    generator: Generator,
    rewrites: Rewrites,
    metadata: Mapping[str, str],
    image_dtype: str = "uint8",
    step: Step = say_nothing,
) -> onnx.ModelProto:
    """The generator as a graph; `image_dtype` "float32" gives [N, 3, R, R] in [-1, 1] instead of bytes."""
    config = generator.config
    module = GraphGenerator(rewrite(generator, rewrites), config, as_bytes=image_dtype == "uint8")
    inputs = {"noise": torch.randn(TRACED_BATCH, config.dim_z)}
    if config.embedding_dim is not None:
        embedding = torch.randn(TRACED_BATCH, config.embedding_dim)
        inputs["embedding"] = nn.functional.normalize(embedding, dim=1)
    if config.takes_label:
        inputs["label"] = torch.zeros(TRACED_BATCH, dtype=torch.int64)
    return passes.clean(export_onnx(module, inputs, ["image"], metadata, step))


def encoder_graph(
    encoder: Encoder,
    size: int,
    metadata: Mapping[str, str],
    rewrites: EncoderRewrites | None = None,
    step: Step = say_nothing,
) -> onnx.ModelProto:
    """The encoder for uint8 pictures [N, size, size, 3], with all rewrites where none are named."""
    pictures = torch.randint(0, 256, (TRACED_BATCH, size, size, 3), dtype=torch.uint8)
    module = rewrite_encoder(encoder, size, rewrites)
    return passes.clean(export_onnx(module, {"image": pictures}, ["embedding"], metadata, step))
