"""The generator alone as one ONNX file, for applications that have their own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from icgan_export.errors import ExportError, ParityError
from icgan_export.lower import onnx_export, passes
from icgan_export.lower.bounds import MAX_ERROR, limit
from icgan_export.lower.graphs import generator_graph
from icgan_export.lower.onnx_export import Step
from icgan_export.rewrite.backbones import AnyRewrites
from icgan_export.snippets import write_page
from icgan_export.source.licences import licence_of_weights
from icgan_export.source.runs import model_name, model_version
from icgan_runtime import files, latents
from icgan_runtime.backends.ort import OrtSession
from icgan_training.fit.run import read_config
from icgan_training.networks.backbones import AnyConfig, AnyGenerator
from icgan_training.networks.checkpoint import load_generator

ROWS = 3  # another batch than the traced one


def write_generator(
    run: Path, out: Path, image_dtype: str, choose: Callable[[AnyConfig], AnyRewrites], step: Step
) -> dict[str, int]:
    """Export with the rewrites that `choose` picks for the model, compare with torch, write graph and page.

    The comparison is on ONNX Runtime, the page that of `snippets.py`. Returns how many there are of each
    operator.
    """
    if not out.parent.is_dir():
        raise ExportError(f"--out {out}: there is no folder {out.parent}")
    step(f"reading {run}")
    config = read_config(run)
    generator = load_generator(run)
    shape = generator.config
    rewrites = choose(shape)
    metadata = {
        "icgan.name": model_name(run, config),
        "icgan.version": model_version(config),
        "icgan.role": "generator",
        "icgan.precision": "fp32",
        "icgan.resolution": str(shape.resolution),
        "icgan.dim_z": str(shape.dim_z),
        "icgan.licence": licence_of_weights(config).weights,
    }
    step("tracing the generator")
    model = generator_graph(generator, rewrites, metadata, image_dtype, step)
    step("comparing with torch")
    error = compare_generator(generator, model.SerializeToString(), image_dtype == "uint8")
    allowed = limit("generator", "fp32", MAX_ERROR)
    if not error <= allowed:
        raise ParityError(
            f"{out} not written: the graph differs from torch by {error:.3g}, at most {allowed:g} is allowed"
        )
    with files.atomic_file(out) as path:
        onnx_export.save(model, path)
    write_page(model, out)
    step(f"max error {error:.2g} against torch")
    return onnx_export.count_operators(model)


def compare_generator(generator: AnyGenerator, model: bytes, as_bytes: bool = True) -> float:
    """Largest difference in [-1, 1] between a generator graph on ONNX Runtime and torch, on pinned noise."""
    shape = generator.config
    noise = latents.noise(0, np.arange(ROWS), 1.0, shape.dim_z)
    feeds: dict[str, np.ndarray] = {"noise": noise}
    if shape.embedding_dim is not None:
        embedding = latents.noise(1, np.arange(ROWS), 1.0, shape.embedding_dim)
        feeds["embedding"] = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    if shape.takes_label and shape.class_count is not None:
        feeds["label"] = np.arange(ROWS, dtype=np.int64) % shape.class_count
    graph = passes.float_pictures(onnx.load_from_string(model)).SerializeToString()
    with OrtSession(graph, "generator.onnx") as session:
        found = session.run(feeds)["image"]
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.inference_mode():
        expected = generator(tensors["noise"], tensors.get("embedding"), tensors.get("label")).numpy()
    if as_bytes:  # which hold a picture within [-1, 1], and the graph before them does so, too
        expected = expected.clip(-1, 1)
    # pictures of StyleGAN2 go beyond [-1, 1]: digits are lost in proportion to what is added up
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
