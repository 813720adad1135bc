"""Passes over a finished ONNX graph: what is easier after tracing than before."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

# What turns a picture in [-1, 1] into bytes, whatever order a tracer leaves it in.
BYTE_OPERATORS = ("Add", "Mul", "Round", "Clip", "Cast", "Transpose")


def fold_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put every BatchNormalization that follows a Conv alone into its kernel and bias; in place, returned.

    The arithmetic is done in float64 and rounded once.
    """
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    makers = {name: node for node in graph.node for name in node.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = makers.get(norm.input[0])
        if conv is None or conv.op_type != "Conv" or uses[norm.input[0]] != 1:
            continue
        if any(name not in values for name in (conv.input[1], *norm.input[1:])):
            continue
        scale, bias, mean, var = (_double(values[name]) for name in norm.input[1:])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(var + epsilon)
        kernel = _double(values[conv.input[1]])
        before = _double(values[conv.input[2]]) if len(conv.input) > 2 else np.zeros_like(mean)
        name = norm.output[0]
        folded = {
            f"{name}.weight": kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1)),
            f"{name}.bias": (before - mean) * factor + bias,
        }
        for key, value in folded.items():
            tensor = numpy_helper.from_array(value.astype(np.float32), key)
            graph.initializer.append(tensor)
            values[key] = tensor
        del conv.input[1:]
        conv.input.extend(folded)
        conv.output[0] = name
        graph.node.remove(norm)
    return model


def float_pictures(model: onnx.ModelProto) -> onnx.ModelProto:
    """A generator graph that stops before the bytes: float32 [N, 3, R, R] in [-1, 1]; in place, returned.

    The picture leaves tanh, possibly through a cast to float32, and is then only scaled, rounded and turned.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    tail, name = [], graph.output[0].name
    while makers[name].op_type in BYTE_OPERATORS and not _casts_to_float(makers[name]):
        tail.append(makers[name])
        name = makers[name].input[0]
    if not tail:
        return model
    for node in tail:
        graph.node.remove(node)
    makers[name].output[0] = graph.output[0].name
    for node in graph.node:  # nothing else reads the picture, but a cast before it may
        for index, read in enumerate(node.input):
            if read == name:
                node.input[index] = graph.output[0].name
    side = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    batch = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info(
            graph.output[0].name, onnx.TensorProto.FLOAT, [batch, 3, side, side]
        )
    )
    del graph.value_info[:]
    return clean(model)


def clean(model: onnx.ModelProto, rename: bool = True) -> onnx.ModelProto:
    """Drop unused initialisers and stale shapes, number nodes by operator, check; in place, returned.

    Without `rename`, only nodes without a name get one: the others keep theirs through a conversion.
    """
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    names: Counter[str] = Counter()
    taken = set() if rename else {node.name for node in graph.node}
    for node in graph.node:
        if rename or not node.name:
            while (name := f"{node.op_type.lower()}_{names[node.op_type]}") in taken:
                names[node.op_type] += 1
            node.name = name
            names[node.op_type] += 1
    made = {name for node in graph.node for name in node.output}
    for value in [value for value in graph.value_info if value.name not in made]:
        graph.value_info.remove(value)
    onnx.checker.check_model(model, full_check=True)
    return model


def _casts_to_float(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(
        a.name == "to" and a.i == onnx.TensorProto.FLOAT for a in node.attribute
    )


def _double(tensor: onnx.TensorProto) -> NDArray[np.float64]:
    return numpy_helper.to_array(tensor).astype(np.float64)
