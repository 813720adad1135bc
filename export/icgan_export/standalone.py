"""The generator alone as one ONNX file, its encoder beside it, for applications with their own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from icgan_export.check.samples import IMAGES
from icgan_export.errors import ExportError, ParityError
from icgan_export.lower import onnx_export, passes
from icgan_export.lower.bounds import MAX_ERROR, PSNR, limit
from icgan_export.lower.graphs import encoder_graph, generator_graph
from icgan_export.lower.half import rounded
from icgan_export.lower.onnx_export import Step
from icgan_export.lower.precision import activation_ranges
from icgan_export.lower.trial import embeddings, generator_trial, lower
from icgan_export.rewrite.backbones import AnyRewrites
from icgan_export.snippets import Beside, write_page
from icgan_export.source.instances import choose_instances
from icgan_export.source.licences import licence_of_weights
from icgan_export.source.runs import model_name, model_version, read_run
from icgan_runtime import files, latents
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.files import sha256_of_file
from icgan_runtime.identity import SQUEEZE
from icgan_runtime.verify import psnr, to_bytes
from icgan_training.fit.run import crop_of, open_encoder, read_config
from icgan_training.networks.backbones import AnyConfig, AnyGenerator
from icgan_training.networks.checkpoint import load_generator
from icgan_training.networks.encoder import Encoder

ROWS = 3  # another batch than the traced one
INSTANCES = 400  # whose embeddings a lower precision is measured on


@dataclass(frozen=True)
class AloneOptions:
    """What `icgan-export onnx` was asked for."""

    image_dtype: str = "uint8"
    precision: str = "fp32"
    encoder: bool = False  # write it beside the generator


def write_generator(
    run: Path, out: Path, options: AloneOptions, choose: Callable[[AnyConfig], AnyRewrites], step: Step
) -> dict[str, int]:
    """Export with the rewrites that `choose` picks for the model, compare with torch, write graph and page.

    The comparison is on ONNX Runtime, the page that of `snippets.py`. Returns how many there are of each
    operator of the generator.
    """
    step(f"reading {run}")
    config = read_config(run)
    generator = load_generator(run)
    shape = generator.config
    if options.encoder and shape.embedding_dim is None:
        raise ExportError(f"--encoder: the model of {run} takes no instance, and has none")
    encoder, beside = _encoder(run, config, shape, options.encoder)
    metadata = {
        "icgan.name": model_name(run, config),
        "icgan.version": model_version(config),
        "icgan.role": "generator",
        "icgan.precision": options.precision,
        "icgan.resolution": str(shape.resolution),
        "icgan.dim_z": str(shape.dim_z),
        "icgan.licence": licence_of_weights(config).weights,
    }
    if beside is not None and beside.weights:  # whose embeddings it understands
        metadata |= {"icgan.encoder": beside.name, "icgan.encoder_sha256": beside.weights}
    step("tracing the generator")
    model = generator_graph(generator, choose(shape), metadata, options.image_dtype, step)
    if options.precision == "fp32":
        step("comparing with torch")
        error = compare_generator(generator, model.SerializeToString(), options.image_dtype == "uint8")
        _hold(out, "the graph differs from torch by", error, limit("generator", "fp32", MAX_ERROR))
        step(f"max error {error:.2g} against torch")
    else:
        model = _lowered(run, generator, model, options.precision, step)
        onnx_export.set_metadata(model, metadata)
    out.parent.mkdir(parents=True, exist_ok=True)
    if encoder is not None and beside is not None:
        path = out.with_name(f"{out.stem}.encoder.onnx")
        _write_encoder(encoder, beside.size, metadata | {"icgan.role": "encoder"}, path, step)
        beside = beside.written(path.name, sha256_of_file(path))
    with files.atomic_file(out) as place:
        onnx_export.save(model, place)
    write_page(model, out, sha256_of_file(out), beside)
    return onnx_export.count_operators(model)


def _encoder(
    run: Path, config: dict[str, Any], shape: AnyConfig, wanted: bool
) -> tuple[Encoder | None, Beside | None]:
    """The encoder where it is wanted, and what is known of it where the model takes embeddings."""
    if shape.embedding_dim is None:
        return None, None
    known = config.get("encoder", {})
    name, sha256 = str(known.get("name", "")), str(known.get("sha256", ""))
    encoder = None
    if wanted:
        encoder, sha256 = open_encoder(run, config)
        name = encoder.config.architecture
    return encoder, Beside(
        name, sha256, shape.resolution, shape.embedding_dim, squeeze=crop_of(config) == SQUEEZE
    )


def _write_encoder(encoder: Encoder, size: int, metadata: dict[str, str], out: Path, step: Step) -> None:
    """The encoder in float32, held to its bound on pictures that were made up."""
    step("tracing the encoder")
    model = encoder_graph(encoder, size, metadata | {"icgan.precision": "fp32"}, step=step)
    pictures = np.random.default_rng(0).integers(0, 256, (ROWS, size, size, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(pictures)).numpy()
    error = float(np.abs(embeddings(model, pictures) - expected).max())
    _hold(out, "the encoder differs from torch by", error, limit("encoder", "fp32", MAX_ERROR))
    step(f"{out.name}: max error {error:.2g} against torch")
    with files.atomic_file(out) as place:
        onnx_export.save(model, place)


def _hold(out: Path, what: str, error: float, allowed: float) -> None:
    """Raise ParityError unless an error is allowed."""
    if not error <= allowed:
        raise ParityError(f"{out} not written: {what} {error:.3g}, at most {allowed:g} is allowed")


def _lowered(
    run: Path, generator: AnyGenerator, model: onnx.ModelProto, precision: str, step: Step
) -> onnx.ModelProto:
    """The graph at a lower precision, measured on embeddings of the run's pictures, compared with torch."""
    shape = generator.config
    if shape.embedding_dim is None:
        raise ExportError(
            f"--precision {precision}: it is measured on pictures, and the model of {run} takes none"
        )
    step("embedding pictures, on which the precision is measured")
    instances = choose_instances(read_run(run), None, INSTANCES, IMAGES)
    classes = shape.class_count if shape.takes_label and shape.class_count is not None else 0
    trial = generator_trial(shape.dim_z, classes, instances.embeddings, model)
    ranges = activation_ranges(model, trial.feeds)
    step(f"lowering the generator to {precision}")
    found = lower(model, precision, ranges, trial)
    step(f"comparing with torch, {len(found.kept)} operators in float32")
    drawn, expected = _both(generator, found.model, dict(trial.feeds))
    least, given = limit("generator", precision, PSNR), psnr(to_bytes(drawn), to_bytes(expected))
    if not given >= least:
        raise ParityError(f"not written: {precision} pictures are {given:.1f} dB from torch's, not {least:g}")
    step(f"PSNR {given:.1f} dB against torch")
    return found.model


def compare_generator(generator: AnyGenerator, model: bytes, as_bytes: bool = True) -> float:
    """Largest difference in [-1, 1] between a generator graph on ONNX Runtime and torch, on pinned noise."""
    shape = generator.config
    feeds: dict[str, NDArray[Any]] = {"noise": latents.noise(0, np.arange(ROWS), 1.0, shape.dim_z)}
    if shape.embedding_dim is not None:
        embedding = latents.noise(1, np.arange(ROWS), 1.0, shape.embedding_dim)
        feeds["embedding"] = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    if shape.takes_label and shape.class_count is not None:
        feeds["label"] = np.arange(ROWS, dtype=np.int64) % shape.class_count
    found, expected = _both(generator, onnx.load_from_string(model), feeds)
    if as_bytes:  # which hold a picture within [-1, 1], and the graph before them does so, too
        expected = expected.clip(-1, 1)
    # pictures of StyleGAN2 go beyond [-1, 1]: digits are lost in proportion to what is added up
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def _both(
    generator: AnyGenerator, model: onnx.ModelProto, feeds: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pictures [N, 3, R, R] in [-1, 1] by a graph, which is left as it is, and by torch."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = rounded(passes.float_pictures(copy)).SerializeToString()
    with OrtSession(graph, "generator.onnx") as session:
        found: NDArray[np.float32] = session.run(feeds)["image"]
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.inference_mode():
        expected = generator(tensors["noise"], tensors.get("embedding"), tensors.get("label")).numpy()
    return found, expected
