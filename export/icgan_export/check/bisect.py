"""Where a graph goes wrong: its activations against those of the same graph that is right, layer by layer."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from icgan_export.check.samples import Samples
from icgan_export.check.verify import Report
from icgan_export.errors import ExportError
from icgan_export.lower.graphs import encoder_graph, generator_graph
from icgan_export.lower.half import rounded
from icgan_export.lower.passes import float_pictures
from icgan_export.lower.skeleton import with_shapes
from icgan_export.rewrite.backbones import best_rewrites
from icgan_export.rewrite.choice import Target
from icgan_export.source.runs import read_run
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.backends.select import read_graph
from icgan_runtime.bundle.manifest import GraphEntry
from icgan_runtime.bundle.opened import Bundle

ROWS = 8
WORST = 10  # layers of a graph that misses a bound
HEAD = f"{'operator':<16} {'error':>10} {'largest':>10}   tensor"
# Error of a layer, relative to its own size, that no sound graph of that precision showed.
LIMITS = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.2, "int8": 0.3}


@dataclass(frozen=True)
class Layer:
    """One activation: root mean square of the difference over that of the right values."""

    tensor: str
    operator: str
    error: float  # NaN where the graph under test gives NaN or infinity
    largest: float  # magnitude in the right graph


@dataclass(frozen=True)
class Bisection:
    """Every activation both graphs have, in the order they are computed."""

    file: str
    limit: float
    layers: tuple[Layer, ...]

    @property
    def first_bad(self) -> Layer | None:
        """The first layer beyond the limit."""
        return next((layer for layer in self.layers if not layer.error <= self.limit), None)

    def worst(self) -> str:
        """The layers with the largest errors, NaN before all, for the terminal."""
        ranked = sorted(
            self.layers, key=lambda layer: layer.error if layer.error >= 0 else math.inf, reverse=True
        )
        return "\n".join(
            [f"{self.file}: furthest from the float32 graph", HEAD, *map(self._row, ranked[:WORST])]
        )

    def _row(self, layer: Layer) -> str:
        mark = "" if layer.error <= self.limit else "  BAD"
        return f"{layer.operator:<16} {layer.error:>10.2e} {layer.largest:>10.3g}   {layer.tensor}{mark}"

    def table(self) -> str:
        """For the terminal."""
        lines = [HEAD, *map(self._row, self.layers)]
        bad = self.first_bad
        lines.append(
            f"{self.file}: every layer is within {self.limit:g} of its own size"
            if bad is None
            else f"{self.file}: first beyond {self.limit:g} of its own size: {bad.operator} {bad.tensor}"
        )
        return "\n".join(lines)


def bisect(path: Path, file: str, run: Path | None) -> Bisection:
    """Compare the graph `file` of a bundle with the right one, on the bundle's pinned inputs.

    The right one is the bundle's float32 graph, or a fresh export of `run` where one is given: a float32
    graph can be compared with that alone. Raises ExportError where there is nothing to compare with.
    """
    bundle = Bundle.open(path)
    entry = next((entry for entry in bundle.manifest.graphs if entry.file == file), None)
    if entry is None or entry.role == "lookup":
        files = [entry.file for entry in bundle.manifest.graphs if entry.role != "lookup"]
        raise ExportError(f"--bisect {file}: choose from {', '.join(files)}")
    if run is None and entry.precision == "fp32":
        raise ExportError(f"--bisect {file}: name the weights it was made from with --run")
    exact = onnx.load_from_string(read_graph(bundle, bundle.manifest.graph(entry.role, "fp32")))
    right = exact if run is None else _fresh(run, entry, exact)
    wrong = rounded(onnx.load_from_string(read_graph(bundle, entry)))
    samples = Samples.read(bundle)
    feeds = {name: array[:ROWS] for name, array in samples.feeds(entry).items()}
    if entry.role == "generator":
        right, wrong = float_pictures(right), float_pictures(wrong)
    layers = compare_layers(right, wrong, feeds)
    return Bisection(file, LIMITS[entry.precision], layers)


def worst_tensors(path: Path, report: Report) -> str:
    """Of every graph that misses a bound, the tensors furthest from those of the bundle's float32 graph.

    A float32 graph has nothing in the bundle to be compared with: what compares it is named instead.
    """
    missed = {(failure.stage, failure.precision) for failure in report.failures}
    tables = []
    for entry in Bundle.open(path).manifest.graphs:
        alone, chain = (entry.role, entry.precision), ("chain", entry.precision)
        if entry.role == "lookup" or not missed & {alone, chain}:
            continue
        if entry.precision == "fp32":
            tables.append(f"{entry.file}: layer by layer with verify --bisect {entry.file} --run RUN")
        else:
            tables.append(bisect(path, entry.file, None).worst())
    return "\n\n".join(tables)


def compare_layers(
    right: onnx.ModelProto, wrong: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]
) -> tuple[Layer, ...]:
    """Errors of the float activations that have the same name in both. Raises ExportError if none has."""
    operators = {name: node.op_type for node in right.graph.node for name in node.output}
    made = {name for node in wrong.graph.node for name in node.output}
    floats = _floats(right) & _floats(wrong)
    names = [name for name in operators if name in made and name in floats]
    if not names:
        raise ExportError("the two graphs share no activation: they are of different exports")
    expected = _activations(right, names, feeds)
    found = _activations(wrong, names, feeds)
    layers = []
    for name in names:
        want, got = expected[name].astype(np.float64), found[name].astype(np.float64)
        size = float(np.sqrt(np.mean(want**2)))
        error = float(np.sqrt(np.mean((got - want) ** 2))) if got.shape == want.shape else float("nan")
        relative = error / size if size else error
        layers.append(Layer(name, operators[name], relative, float(np.abs(want).max(initial=0.0))))
    return tuple(layers)


def _fresh(run_path: Path, entry: GraphEntry, exact: onnx.ModelProto) -> onnx.ModelProto:
    """The graph of `entry` exported from a run in the form that the bundle's float32 graph has.

    Tensors are compared by name, and other rewrites give other tensors the same names.
    """
    run = read_run(run_path)
    if entry.role == "encoder":
        return encoder_graph(run.encoder, run.model.preprocessing.size, {})
    config = run.generator.config
    for rewrites in dict.fromkeys(best_rewrites(config, target) for target in typing.get_args(Target)):
        graph = generator_graph(run.generator, rewrites, {}, truncated=run.model.truncation == "mean-w")
        if _operators(graph) == _operators(exact):
            return graph
    raise ExportError(
        f"--run {run_path}: what is exported from it here has other operators than the bundle's generator: "
        "the weights are of another model, or the bundle of another version"
    )


def _operators(model: onnx.ModelProto) -> list[tuple[str, ...]]:
    return [(node.op_type, *node.output) for node in model.graph.node]


def _floats(model: onnx.ModelProto) -> set[str]:
    graph = with_shapes(model).graph
    return {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }


def _activations(
    model: onnx.ModelProto, names: list[str], feeds: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.float32]]:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    public = {output.name for output in probe.graph.output}
    for name in names:
        if name not in public:
            probe.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    # NaN and infinity are what is looked for
    with OrtSession(probe.SerializeToString(), "probe.onnx", finite=False) as session:
        return session.run(feeds)
