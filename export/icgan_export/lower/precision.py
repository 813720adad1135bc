"""Which nodes leave float32: decided by measuring the graph on real embeddings, pictures and noise.

FP16: what overflows or is float32 by definition stays; then whatever alone costs most, until the bound holds.
INT8: every product with a constant is tried; if the bound is missed, the costliest ones go back to float32.
The errors of single nodes add up closely enough to rank them (`node_errors`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from icgan_export.errors import ExportError
from icgan_export.lower.half import LARGEST_HALF, to_half
from icgan_export.lower.passes import byte_tail
from icgan_export.lower.qdq import quantisable, quantise
from icgan_export.lower.skeleton import with_shapes
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.bundle.manifest import KeptNode
from icgan_runtime.cpus import usable_cpus

Feeds = Mapping[str, NDArray[Any]]
Convert = Callable[[onnx.ModelProto, Sequence[str]], onnx.ModelProto]  # (float32 model, lowered nodes)
Loss = Callable[[onnx.ModelProto], float]  # against float32; 0 is perfect

HEADROOM = 8.0  # FP16 is refused where a measured activation comes closer than this to its largest number
BATCH = 8
MOST_AT_ONCE = 4  # graphs that are tried side by side: each holds all its activations
MARGIN = 0.7  # share of the allowed loss that a choice may use up: other inputs are a little worse


@dataclass(frozen=True, eq=False)
class Lowered:
    """A graph at a lower precision, the nodes that stayed, and what was measured."""

    model: onnx.ModelProto
    kept: tuple[KeptNode, ...]
    loss: float


def activation_ranges(model: onnx.ModelProto, feeds: Feeds) -> dict[str, float]:
    """Largest magnitude of every float32 activation over all rows of `feeds`."""
    probe = with_shapes(model)
    graph = probe.graph
    constants = {tensor.name for tensor in graph.initializer}
    names = [
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in constants
    ]
    del graph.output[:]
    for index, name in enumerate(names):
        graph.node.append(helper.make_node("Abs", [name], [f"abs_{index}"]))
        graph.node.append(helper.make_node("ReduceMax", [f"abs_{index}"], [f"max_{index}"], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(f"max_{index}", TensorProto.FLOAT, []))
    largest = np.zeros(len(names))
    with OrtSession(probe.SerializeToString(), "probe.onnx", spinning=False) as session:
        for rows in _batches(feeds):
            found = session.run(rows)
            largest = np.maximum(largest, [float(found[f"max_{i}"]) for i in range(len(names))])
    return dict(zip(names, largest.tolist(), strict=True))


def lower_to_half(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    loss: Loss,
    allowed: float,
    rank: Loss | None = None,
    precision: str = "fp16",
) -> Lowered:
    """FP16 (or BF16) with the shortest kept list that holds `allowed`; `rank` (or `loss`) orders nodes."""
    kept = {node.name: KeptNode(node.name, reason) for node, reason in _float_by_definition(model)}
    if precision == "fp16":
        for node in model.graph.node:
            largest = max((ranges.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
            if largest * HEADROOM > LARGEST_HALF and node.name not in kept:
                reason = f"activation reaches {largest:.3g}, FP16 ends at {LARGEST_HALF:.0f}"
                kept[node.name] = KeptNode(node.name, reason)

    def convert(source: onnx.ModelProto, lowered: Sequence[str]) -> onnx.ModelProto:
        rest = {node.name for node in source.graph.node} - set(lowered)
        return to_half(source, rest, precision)

    free = [node.name for node in model.graph.node if node.name not in kept]
    return _raise_until(model, free, list(kept.values()), convert, loss, allowed, rank or loss, precision)


def lower_to_int8(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    loss: Loss,
    allowed: float,
    rank: Loss | None = None,
) -> Lowered:
    """INT8 in every product with a constant that the bound allows; `rank` as in `lower_to_half`."""

    def convert(source: onnx.ModelProto, lowered: Sequence[str]) -> onnx.ModelProto:
        return quantise(source, lowered, ranges)

    return _raise_until(model, quantisable(model), [], convert, loss, allowed, rank or loss, "int8")


def node_errors(
    model: onnx.ModelProto, nodes: Sequence[str], convert: Convert, loss: Loss
) -> dict[str, float]:
    """The loss when only one node is lowered, for every node: the sensitivity analysis.

    Side by side, in sessions of one thread each: those of one session wait for each other at every operator.
    """
    with ThreadPoolExecutor(min(usable_cpus(), MOST_AT_ONCE)) as pool:
        losses = pool.map(lambda name: loss(convert(model, [name])), nodes)
        return dict(zip(nodes, losses, strict=True))


def _raise_until(
    model: onnx.ModelProto,
    nodes: Sequence[str],
    kept: list[KeptNode],
    convert: Convert,
    loss: Loss,
    allowed: float,
    rank: Loss,
    precision: str,
) -> Lowered:
    """Lower all `nodes`; if the loss is too large, take back the fewest of the costliest that mend it."""

    def attempt(lowered: Sequence[str], kept: Sequence[KeptNode]) -> Lowered:
        converted = convert(model, lowered)
        return Lowered(converted, tuple(kept), loss(converted))

    def holds(found: Lowered) -> bool:
        return found.loss <= MARGIN * allowed

    found = attempt(nodes, kept)
    if holds(found):
        return found
    products = [name for name in quantisable(model) if name in set(nodes)]
    errors = node_errors(model, products, convert, rank)
    ranking = sorted(errors, key=lambda name: errors[name], reverse=True)

    def keep(count: int) -> Lowered:
        costliest = ranking[:count]
        reasons = [
            KeptNode(name, f"alone costs {errors[name] / allowed:.0%} of the bound") for name in costliest
        ]
        return attempt([name for name in nodes if name not in costliest], [*kept, *reasons])

    too_few, enough = 0, len(ranking)
    found = keep(enough)
    if not holds(found):
        raise ExportError(
            f"{precision}: even with every product in float32 the loss is at least {found.loss:.3g} "
            f"(allowed {allowed:.3g}); export without {precision}"
        )
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        tried = keep(middle)
        if holds(tried):
            found, enough = tried, middle
        else:
            too_few = middle
    return found


def _float_by_definition(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, str]]:
    """The encoder's L2 norm, and what turns the generator's picture into bytes."""
    nodes = list(model.graph.node)
    makers = {name: node for node in nodes for name in node.output}
    sums = [node for node in nodes if node.op_type == "ReduceSum"]  # of the squares
    if sums and model.graph.output[0].name == "embedding":
        square = makers[sums[-1].input[0]]  # a backbone may have sums of its own before
        behind = {square.name}
        names = set(square.output)
        for node in nodes:
            if names & set(node.input):
                behind.add(node.name)
                names |= set(node.output)
        return [(node, "the L2 norm is float32") for node in nodes if node.name in behind]
    return [(node, "the rounding to bytes is float32") for node in byte_tail(model.graph)]


def _batches(feeds: Feeds) -> list[dict[str, NDArray[Any]]]:
    count = len(next(iter(feeds.values())))
    return [
        {name: array[start : start + BATCH] for name, array in feeds.items()}
        for start in range(0, count, BATCH)
    ]
