"""The graphs of a bundle as one edge target takes them, and the pinned inputs and answers beside each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from icgan_export.check.samples import Samples
from icgan_export.edge.target import Arrays, EdgeTarget, TorchGraph
from icgan_export.errors import ExportError
from icgan_export.lower.graphs import GraphGenerator, generator_graph
from icgan_export.lower.onnx_export import Step
from icgan_export.lower.passes import clean, float_pictures
from icgan_export.rewrite.backbones import AnyRewrites, best_rewrites, rewritten
from icgan_export.rewrite.encoder import rewrite_encoder
from icgan_export.source.runs import read_run
from icgan_runtime.bundle.manifest import onnx_metadata
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.verify import to_bytes
from icgan_training.networks.backbones import AnyGenerator

ROLES = ("encoder", "lookup", "generator")


@dataclass(frozen=True, eq=False)
class Part:
    """One graph to convert: what goes in and what torch answered in float32."""

    role: str
    precision: str
    graph: onnx.ModelProto | TorchGraph
    feeds: Arrays
    output: str
    expected: NDArray[Any]


def parts_of(bundle: Bundle, target: EdgeTarget, precision: str, run: Path | None, step: Step) -> list[Part]:
    """Every graph that the bundle has at `precision` and `target` runs; the lookup is among those of fp32.

    With `run`, the weights of the bundle, a float32 generator is traced in the target's own form; without it,
    that of the bundle is taken as it is. FP16 and INT8 are the bundle's, but where the target's converter
    makes them of float32. Raises ExportError where the bundle has no graphs of that precision.
    """
    source = "fp32" if target.lowers else precision
    if not any(entry.precision == source for entry in bundle.manifest.graphs):
        raise ExportError(
            f"the bundle has no {source}: icgan-export bundle --precision fp32,{source} writes it"
        )
    samples = Samples.read(bundle)
    found = []
    for role in ROLES:
        entries = [e for e in bundle.manifest.graphs if e.role == role and e.precision == source]
        if not entries or role in (target.left_behind or {}) or (role == "lookup" and precision != "fp32"):
            continue
        if target.from_torch:
            part = _part(role, precision, None, samples, False, samples.feeds(entries[0]))
            graph = TorchGraph(_module(role, target, run), part.feeds, part.output)
            found.append(replace(part, graph=graph))
            continue
        if role == "generator" and run is not None and source == "fp32":
            graph = _traced(bundle, target, run, step)
        else:
            graph = onnx.load_from_string(bundle.read(entries[0].file))
        if not target.bytes_inside:
            graph = {"encoder": float_input, "generator": float_pictures}[role](graph)
        found.append(_part(role, precision, graph, samples, target.bytes_inside, samples.feeds(entries[0])))
    return found


def _traced(bundle: Bundle, target: EdgeTarget, run: Path, step: Step) -> onnx.ModelProto:
    generator = read_run(run).generator
    step(f"tracing the generator in the form for {target.name}")
    metadata = onnx_metadata(bundle.manifest.model, "generator", "fp32")
    return generator_graph(generator, best_rewrites(generator.config, target.form), metadata)


def _module(role: str, target: EdgeTarget, run: Path | None) -> nn.Module:
    if run is None:
        raise ExportError(
            f"{target.name}: its converter reads torch modules: name the weights with --run RUN"
        )
    weights = read_run(run)
    if role == "encoder":
        if weights.encoder.config.is_graph:
            raise ExportError(
                f"{target.name}: its converter reads torch modules, and encoder"
                f" {weights.encoder.config.architecture} is an ONNX graph: choose a target that reads ONNX,"
                " as openvino, mnn, ort or web"
            )
        return rewrite_encoder(weights.encoder, weights.model.preprocessing.size)
    return torch_generator(weights.generator, best_rewrites(weights.generator.config, target.form))


def torch_generator(generator: AnyGenerator, rewrites: AnyRewrites) -> nn.Module:
    """A generator for converters that read torch modules: float pictures [N, 3, R, R]."""
    return GraphGenerator(rewritten(generator, rewrites), generator.config, as_bytes=False).eval()


def _part(role: str, precision: str, graph: Any, samples: Samples, in_bytes: bool, feeds: Arrays) -> Part:
    if role == "lookup":
        return Part(role, precision, graph, {"embedding": samples.embedding}, "ids", samples.ids)
    if role == "encoder":
        picture = samples.picture if in_bytes else samples.picture.astype(np.float32)
        return Part(role, precision, graph, {"image": picture}, "embedding", samples.embedding)
    return Part(
        role, precision, graph, feeds, "image", to_bytes(samples.image) if in_bytes else samples.image
    )


def float_input(model: onnx.ModelProto) -> onnx.ModelProto:
    """An encoder graph that takes its picture as float32 levels 0 .. 255 [N, S, S, 3]; in place, returned.

    For runtimes without bytes. Casts of the picture fall away.
    """
    graph = model.graph
    picture = graph.input[0]
    picture.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] == picture.name]:
        graph.node.remove(node)
        for reader in graph.node:
            for index, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[index] = picture.name
    del graph.value_info[:]
    return clean(model, rename=False)
