"""Passes over a finished ONNX graph: what is easier after tracing than before."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from icgan_export.lower.skeleton import check, with_shapes

# What turns a picture in [-1, 1] into bytes, whatever order a tracer leaves it in.
BYTE_OPERATORS = ("Add", "Mul", "Round", "Clip", "Cast", "Transpose")


def float_pictures(model: onnx.ModelProto) -> onnx.ModelProto:
    """A generator graph that stops before the bytes: float32 [N, 3, R, R] in [-1, 1]; in place, returned.

    The picture leaves tanh or a clip to [-1, 1], possibly through a cast to float32, and is then only scaled,
    rounded and turned.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    tail = byte_tail(graph)
    if not tail:
        return model
    name = tail[-1].input[0]
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
        helper.make_tensor_value_info(graph.output[0].name, onnx.TensorProto.FLOAT, [batch, 3, side, side])
    )
    del graph.value_info[:]
    return clean(model)


def byte_tail(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that make bytes of a generator's picture, the last one first; none of a float picture.

    Each operator is among them once: a second clip is what held the picture within [-1, 1].
    """
    makers = {name: node for node in graph.node for name in node.output}
    tail: list[onnx.NodeProto] = []
    if graph.output[0].type.tensor_type.elem_type != onnx.TensorProto.UINT8:
        return tail
    node = makers[graph.output[0].name]
    while node.op_type in set(BYTE_OPERATORS) - {done.op_type for done in tail} and not _casts_to_float(node):
        tail.append(node)
        node = makers[node.input[0]]
    return tail


# Taps of a 4x4 transposed convolution (stride 2, padding 1) by which x[i - 1 + phase] and x[i + phase] reach
# output 2 i + phase: tap k adds x[i] to output 2 i - 1 + k.
PHASE_TAPS = np.array([[3, 1], [2, 0]])


def transposed_in_phases(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every upsampling ConvTranspose as four 2x2 convolutions and an interleave.

    Of a 4x4 kernel and padding 1, to twice the side, or (StyleGAN2) of 3x3 and none, to one pixel more. One
    of stride 1 becomes the convolution that it is. The same sums under the same names. For BF16, in which
    TensorRT-RTX builds no transposed convolution.
    """
    copy = with_shapes(model)
    graph = copy.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.value_info
    }
    body: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "ConvTranspose":
            body.append(node)
            continue
        kernel = numpy_helper.to_array(constants[node.input[1]])  # [I, O, k, k]
        if _doubles(node) and kernel.shape[2] == 3:
            body += _odd_phases(graph, node, kernel, shapes[node.input[0]][2:])
        elif _doubles(node):
            body += _phases(graph, node, kernel, shapes[node.input[0]][2:])
        else:
            body.append(_convolution(graph, node, kernel))
    del graph.node[:]
    graph.node.extend(body)
    return clean(copy, rename=False)


def _phases(
    graph: onnx.GraphProto, node: onnx.NodeProto, kernel: NDArray[np.float32], sides: list[int]
) -> list[onnx.NodeProto]:
    """One 2x2 convolution to 4 O channels on the padded picture, its four corners cut out, interleaved."""
    name, channels = node.name, kernel.shape[1]

    def constant(suffix: str, value: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{name}.{suffix}"))
        return f"{name}.{suffix}"

    taps = [kernel[:, :, rows][:, :, :, columns] for rows in PHASE_TAPS for columns in PHASE_TAPS]
    phases = np.concatenate([tap.transpose(1, 0, 2, 3) for tap in taps])  # [4 O, I, 2, 2]
    wide, weight = f"{name}.phases", constant("weight", np.ascontiguousarray(phases))
    nodes = [helper.make_node("Conv", [node.input[0], weight], [wide], name, pads=[1, 1, 1, 1])]
    axes = constant("axes", np.array([1, 2, 3], np.int64))
    cut = []
    for index in range(4):
        start = np.array([index * channels, index // 2, index % 2], np.int64)
        ends = start + np.array([channels, *sides], np.int64)
        bounds = [constant(f"start{index}", start), constant(f"end{index}", ends), axes]
        cut.append(f"{name}.phase{index}")
        nodes.append(helper.make_node("Slice", [wide, *bounds], [cut[-1]], f"{name}.slice{index}"))
    nodes.append(helper.make_node("Concat", cut, [f"{name}.cut"], f"{name}.concat", axis=1))
    nodes.append(
        helper.make_node("DepthToSpace", [f"{name}.cut"], [node.output[0]], f"{name}.interleave", blocksize=2)
    )
    return nodes


def _odd_phases(
    graph: onnx.GraphProto, node: onnx.NodeProto, kernel: NDArray[np.float32], sides: list[int]
) -> list[onnx.NodeProto]:
    """One 2x2 convolution to 4 O channels, interleaved, and without the last row and column.

    Tap k adds x[i] to output 2 i + k: output 2 i has taps 2 and 0 of x[i - 1] and x[i], 2 i + 1 tap 1.
    """
    name = node.name

    def constant(suffix: str, value: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{name}.{suffix}"))
        return f"{name}.{suffix}"

    spread = np.zeros((2, 2, 3), np.float32)  # phase, which of the two pixels, tap
    spread[0, 0, 2] = spread[0, 1, 0] = spread[1, 1, 1] = 1
    phases = np.einsum("ioyx,pay,qbx->pqoiab", kernel, spread, spread)  # [2, 2, O, I, 2, 2]
    weight = constant("weight", np.ascontiguousarray(phases.reshape(-1, *phases.shape[3:])))
    starts = constant("starts", np.zeros(2, np.int64))
    ends = constant("ends", 2 * np.array(sides, np.int64) + 1)
    bounds = [starts, ends, constant("axes", np.array([2, 3], np.int64))]
    wide, whole = f"{name}.phases", f"{name}.whole"
    return [
        helper.make_node("Conv", [node.input[0], weight], [wide], name, pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", [wide], [whole], f"{name}.interleave", blocksize=2),
        helper.make_node("Slice", [whole, *bounds], [node.output[0]], f"{name}.cut"),
    ]


def _convolution(graph: onnx.GraphProto, node: onnx.NodeProto, kernel: NDArray[np.float32]) -> onnx.NodeProto:
    """A 3x3 ConvTranspose of stride 1 and padding 1, which leaves a picture's size alone, as Conv."""
    weight = f"{node.name}.weight"
    graph.initializer.append(
        numpy_helper.from_array(np.ascontiguousarray(kernel.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]), weight)
    )
    inputs = [node.input[0], weight, *node.input[2:]]
    return helper.make_node("Conv", inputs, node.output, node.name, pads=[1, 1, 1, 1])


def clean(model: onnx.ModelProto, rename: bool = True) -> onnx.ModelProto:
    """Drop unused initialisers and stale shapes, number nodes by operator, check; in place, returned.

    Without `rename`, only nodes without a name get one: the others keep theirs through a conversion.
    """
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    names: Counter[str] = Counter()
    # nor as any tensor is called: a file that onnxslim has made of such a graph does not load in ONNX Runtime
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    if not rename:
        taken |= {node.name for node in graph.node}
    for node in graph.node:
        if rename or not node.name:
            while (name := f"{node.op_type}_{names[node.op_type]}") in taken:
                names[node.op_type] += 1
            node.name = name
            names[node.op_type] += 1
    made = {name for node in graph.node for name in node.output}
    for value in [value for value in graph.value_info if value.name not in made]:
        graph.value_info.remove(value)
    check(model)
    return model


def _doubles(node: onnx.NodeProto) -> bool:
    """Whether a transposed convolution enlarges the picture."""
    return any(a.name == "strides" and list(a.ints) == [2, 2] for a in node.attribute)


def _casts_to_float(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(
        a.name == "to" and a.i == onnx.TensorProto.FLOAT for a in node.attribute
    )
