"""Freeze a tiny StyleGAN2 generator as exported, with pictures that torch draws, for tests of every runtime.

    python -m tests.golden.make_stylegan2_graph

Writes stylegan2_graph.onnx, with one block in each form that the published widths are exported in, and
stylegan2_images.npy, float32 [3, 3, 16, 16], its pictures for `tests.models.stylegan2_bundle.pinned`.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch

from icgan_export.lower.graphs import generator_graph
from icgan_export.rewrite.stylegan2.choice import StyleRewrites
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator
from tests.models import make_models
from tests.models.stylegan2_bundle import GRAPH, IMAGES, SIDE, pinned, stylegan2_model

CONFIG = StyleGAN2Config(
    SIDE,
    make_models.WIDTH,
    dim_z=make_models.DIM_Z,
    dim_w=12,
    channel_base=128,
    channel_max=12,
    conv_clamp=4.0,
)


def random_generator() -> StyleGAN2Generator:
    """Weights at random, biases, noise and mean w off zero, so that a picture shows each of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = StyleGAN2Generator(CONFIG).eval().requires_grad_(False)
        for name, parameter in made.named_parameters():
            if parameter.dim() < 2 and "affine" not in name:
                parameter.normal_(std=0.3)
        made.mapping.w_avg.normal_(std=0.5)
    return made


def graph_of(generator: StyleGAN2Generator) -> onnx.ModelProto:
    """The graph of a bundle."""
    return generator_graph(generator, StyleRewrites(("products", "separate")), {}, truncated=True)


def main() -> None:
    """Write both files."""
    generator = random_generator()
    onnx.save(graph_of(generator), GRAPH)
    model = stylegan2_model()
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(make_models.GRID**2 * 3, model.embedding_dim)).astype(np.float32)
    given = {name: torch.from_numpy(value) for name, value in pinned(model, weight).items()}
    psi = given["truncation"].clamp(max=1.0)
    np.save(IMAGES, generator(given["noise"], given["embedding"], None, psi).clamp(-1, 1).numpy())


if __name__ == "__main__":
    main()
