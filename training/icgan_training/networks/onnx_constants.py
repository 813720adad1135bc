"""What a graph computes without a picture, computed once and kept as weights.

A position embedding that is resized to the side of the pictures, padding and shapes that an exporter left to
be computed: ONNX Runtime does the same when it loads a float32 graph, but not always in a lower precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxscript.optimizer
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

MOST = 1 << 24  # numbers of one constant, as 4096 tokens of 4096; what is larger stays computed
Evaluate = Callable[[bytes], Mapping[str, NDArray[Any]]]  # (graph without inputs) -> its outputs


def constants_folded(model: ModelProto, evaluate: Evaluate) -> ModelProto:
    """The same function; what does not depend on its input is a weight, unless that would be too large."""
    while True:
        model = onnxscript.optimizer.optimize(model)
        _lift(model.graph)
        if not _compute(model, evaluate):
            return model


def _lift(graph: GraphProto) -> None:
    """Make weights of Constant nodes, in place."""
    nodes = []
    for node in graph.node:
        value = _constant(node)
        if value is None:
            nodes.append(node)
        else:
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del graph.node[:]
    graph.node.extend(nodes)


def _constant(node: NodeProto) -> NDArray[Any] | None:
    """The value of a Constant of numbers; None for any other node."""
    if node.op_type != "Constant":
        return None
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    dtype = np.int64 if "int" in attribute.name else np.float32
    return np.array(value, dtype) if attribute.name.startswith("value_") else None


def _compute(model: ModelProto, evaluate: Evaluate) -> bool:
    """Make weights of what depends on no input, in place; whether there was anything."""
    graph = model.graph
    of_pictures = {value.name for value in graph.input}
    alone, others = [], []
    for node in graph.node:
        if of_pictures & set(node.input):
            of_pictures |= set(node.output)
            others.append(node)
        else:
            alone.append(node)
    made = {name for node in alone for name in node.output}
    read = {name for node in others for name in node.input}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    wanted = [value for value in inferred.value_info if value.name in made & read and _fits(value)]
    if not wanted or len(wanted) < len(made & read):
        return False
    names = {name for node in alone for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in names]
    part = helper.make_model(
        helper.make_graph(alone, "constants", [], wanted, weights),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    for name, value in evaluate(part.SerializeToString()).items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    del graph.node[:]
    graph.node.extend(others)
    return True


def _fits(value: onnx.ValueInfoProto) -> bool:
    """Whether a tensor is small enough, as far as that is known before it is computed."""
    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
    return bool(np.prod(sizes) <= MOST)
