"""A float32 graph with INT8 matrix products and convolutions, as QuantizeLinear and DequantizeLinear pairs.

The form that ONNX Runtime, OpenVINO and TensorRT all accept: symmetric int8 with zero point 0, weights per
output channel, one scale per activation, biases left in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from icgan_export.lower.passes import clean

LARGEST_INT8 = 127.0
SMALLEST_RANGE = 1e-12  # a channel of zeros needs a scale, too
# Axis of the output channels in the constant second input.
OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
# They pass on values as they are. Behind an int8 tensor ONNX Runtime gives their results a pair of its own,
# unless they have one, and refuses it itself from opset 21 on (1.31, where it prefers uint8 to int8).
MOVERS = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")


def quantisable(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply by a constant matrix or kernel."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in OUTPUT_AXIS and node.input[1] in constants and node.input[0] not in constants
    ]


def quantise(model: onnx.ModelProto, nodes: Collection[str], ranges: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of `model` with `nodes` in INT8; `ranges` gives the largest magnitude of every activation.

    A convolution's result is quantised, too: only then does ONNX Runtime run it in integers. What only moves
    int8 values is followed by the same pair once more, which changes no value.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantiser = _Quantiser(copy.graph, ranges)
    renamed: dict[str, str] = {}
    moved: dict[str, str] = {}  # not for products, which have scales of their own
    public = {output.name for output in copy.graph.output}
    for node in copy.graph.node:
        for index, name in enumerate(node.input):
            name = renamed.get(name, name)
            node.input[index] = name if node.name in nodes else moved.get(name, name)
        result = node.output[0]
        if node.name in nodes:
            node.input[0] = quantiser.activation(node.input[0])
            node.input[1] = quantiser.weights(node)
            quantiser.body.append(node)
            if node.op_type == "Conv" and result not in public:
                renamed[result] = quantiser.activation(result)
        else:
            quantiser.body.append(node)
            if node.op_type in MOVERS and result not in public and quantiser.is_restored(node.input[0]):
                moved[result] = quantiser.moved(node.input[0], result)
    del copy.graph.node[:]
    copy.graph.node.extend(quantiser.body)
    return clean(copy, rename=False)


class _Quantiser:
    """The nodes of a graph as they are written anew, with pairs of QuantizeLinear and DequantizeLinear."""

    def __init__(self, graph: onnx.GraphProto, ranges: Mapping[str, float]) -> None:
        self.graph, self.ranges = graph, ranges
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.body: list[onnx.NodeProto] = []
        self.done: dict[str, str] = {}  # activation -> its quantised and restored copy
        self.scales: dict[str, tuple[str, str]] = {}  # of restored copies: names of scale and zero

    def activation(self, name: str) -> str:
        """The name of an activation behind its pair, which is made the first time."""
        if self.is_restored(name):  # it has just come out of a convolution
            return name
        if name not in self.done:
            scale = np.array(max(self.ranges[name], SMALLEST_RANGE) / LARGEST_INT8, np.float32)
            scales = (
                self._constant(f"{name}.scale", scale),
                self._constant(f"{name}.zero", np.array(0, np.int8)),
            )
            self.done[name] = self._pair(name, scales, f"{name}.int8")
        return self.done[name]

    def is_restored(self, name: str) -> bool:
        """Whether an activation comes out of a pair."""
        return name in self.scales

    def moved(self, source: str, result: str) -> str:
        """The name of `result`, values of the restored `source` in other places, behind a pair like its."""
        return self._pair(result, self.scales[source], f"{result}.moved")

    def _pair(self, name: str, scales: tuple[str, str], restored: str) -> str:
        quantised = f"{restored}.quantised"
        self.body += [
            helper.make_node("QuantizeLinear", [name, *scales], [quantised]),
            helper.make_node("DequantizeLinear", [quantised, *scales], [restored]),
        ]
        self.scales[restored] = scales
        return restored

    def weights(self, node: onnx.NodeProto) -> str:
        """The name of a node's constant, stored as int8 with a scale per output channel, restored.

        A stack of matrices has one scale: ONNX Runtime's product of integers refuses more for it.
        """
        values = numpy_helper.to_array(self.constants[node.input[1]]).astype(np.float64)
        axis = OUTPUT_AXIS[node.op_type] % values.ndim
        if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
            axis = 0
        stacked = node.op_type == "MatMul" and values.ndim > 2
        others = tuple(i for i in range(values.ndim) if i != axis or stacked)
        scale = np.maximum(np.abs(values).max(others), SMALLEST_RANGE) / LARGEST_INT8
        shape = [-1 if i == axis and not stacked else 1 for i in range(values.ndim)]
        levels = np.rint(values / scale.reshape(shape)).astype(np.int8)
        name = f"{node.name}.weight"
        inputs = [
            self._constant(f"{name}.int8", levels),
            self._constant(f"{name}.scale", scale.astype(np.float32)),
            self._constant(f"{name}.zero", np.zeros(scale.shape, np.int8)),
        ]
        restore = helper.make_node("DequantizeLinear", inputs, [name])
        if not stacked:
            restore.attribute.append(helper.make_attribute("axis", axis))
        self.body.append(restore)
        return name

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name
