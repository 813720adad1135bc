"""What a graph costs before anything runs it: multiply-adds, and the memory of its activations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnxscript.optimizer
from onnx import TensorProto, helper

from icgan_export.lower.onnx_export import count_operators

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Cost:
    """One graph at one batch size."""

    batch: int
    operators: dict[str, int]  # nodes of each operator, most frequent first
    multiply_adds: int  # of convolutions and matrix products; everything else is small beside them
    peak_activation_bytes: int  # largest sum of the tensors alive at one node, in the graph's own order

    def summary(self) -> dict[str, int]:
        """What a bundle's manifest says of each graph, for one picture."""
        return {"multiply_adds": self.multiply_adds, "peak_activation_bytes": self.peak_activation_bytes}


def cost(model: onnx.ModelProto, batch: int = 1) -> Cost:
    """Count a graph whose named axes are all the batch. Raises ValueError where a shape is unknown."""
    _, sizes = _tensors(model, batch)
    products = sum(count for _, count in multiply_adds_by_node(model, batch))
    return Cost(batch, count_operators(model), products, _peak(model, sizes))


def multiply_adds_by_node(model: onnx.ModelProto, batch: int = 1) -> list[tuple[onnx.NodeProto, int]]:
    """The same count, node by node."""
    shapes, _ = _tensors(model, batch)
    return [(node, _multiply_adds(node, shapes)) for node in model.graph.node]


def _tensors(model: onnx.ModelProto, batch: int) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shape of every tensor, and bytes of every activation."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = batch
    shapes = {tensor.name: tuple(tensor.dims) for tensor in fixed.graph.initializer}
    sizes: dict[str, int] = {}
    # shapes that are computed from the batch at run time are constants once that is fixed
    for folded in (False, True):
        graph: onnx.ModelProto = onnxscript.optimizer.optimize(fixed) if folded else fixed
        inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True)
        unknown = []
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
            tensor = value.type.tensor_type
            if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
                unknown.append(value.name)
                continue
            shape = tuple(dim.dim_value for dim in tensor.shape.dim)
            shapes[value.name] = shape
            sizes[value.name] = math.prod(shape) * _bytes(tensor.elem_type)
        if not unknown:
            return shapes, sizes
    raise ValueError(f"{unknown[0]}: the shape is not known at batch {batch}")


def _bytes(elem_type: int) -> int:
    if elem_type == TensorProto.BFLOAT16:  # numpy has no such type
        return 2
    return int(helper.tensor_dtype_to_np_dtype(elem_type).itemsize)


def _multiply_adds(node: onnx.NodeProto, shapes: Shapes) -> int:
    output = math.prod(shapes[node.output[0]]) if node.output[0] in shapes else 0
    if node.op_type == "Conv":
        return output * math.prod(shapes[node.input[1]][1:])  # [O, I / groups, h, w]
    if node.op_type == "ConvTranspose":
        return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])  # [I, O, h, w]
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return output * shapes[node.input[0]][0 if transposed else 1]
    if node.op_type == "MatMul":
        return output * shapes[node.input[0]][-1]
    return 0


def _peak(model: onnx.ModelProto, sizes: Mapping[str, int]) -> int:
    """Every tensor lives from the node that makes it to the last that reads it."""
    last: dict[str, int] = {}
    for position, node in enumerate(model.graph.node):
        last.update(dict.fromkeys(node.input, position))
    end = len(model.graph.node)
    last.update({value.name: end for value in model.graph.output})
    alive = {value.name: sizes[value.name] for value in model.graph.input}
    peak = sum(alive.values())
    for position, node in enumerate(model.graph.node):
        alive.update({name: sizes[name] for name in node.output if name in sizes})
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > position}
    return peak
