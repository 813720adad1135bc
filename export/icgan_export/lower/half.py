"""A float32 graph with FP16 (or BF16) arithmetic inside: the strongly typed form that TensorRT builds from.

Public tensors keep their types. Nodes on the kept list, and what float32 is part of the definition of, stay
in float32 with casts around them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from icgan_export.lower.passes import clean
from icgan_export.lower.skeleton import with_shapes

TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
NUMPY_TYPES: dict[int, Any] = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}
LARGEST_HALF = 65504.0
# The first opset whose convolutions take bfloat16; nothing else our graphs use has changed until then.
BF16_OPSET = 22
# Type -> (Veltkamp's factor 2^s + 1, which splits off all but 24 - s of float32's 24 digits; the factor that
# makes a number infinite when it is beyond the type's largest). BF16 ends where float32 does.
ROUNDINGS = {
    int(TensorProto.FLOAT16): (2.0**13 + 1, 2.0**112),
    int(TensorProto.BFLOAT16): (2.0**16 + 1, 1.0),
}
# Inputs that ONNX defines as float32 (scales) or that are no tensors of the computation.
FIXED_INPUTS = {"Resize": (1, 2, 3), "Cast": (0,)}
# Their result is of the type that an attribute, or ONNX, gives it.
MAKES_FLOAT = ("ConstantOfShape", "EyeLike")


@dataclass
class _Converter:
    graph: onnx.GraphProto
    half: int
    kept: Collection[str]
    types: dict[str, int]  # of every float tensor as it is now
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    made: dict[tuple[str, int], str] = field(default_factory=dict)  # (tensor, type) -> its converted copy

    def __post_init__(self) -> None:
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}

    def convert(self) -> None:
        for node in self.graph.node:
            stays = node.name in self.kept or node.op_type in MAKES_FLOAT
            wanted = TensorProto.FLOAT if stays else self.half
            for index, name in enumerate(node.input):
                if name in self.types and index not in FIXED_INPUTS.get(node.op_type, ()):
                    node.input[index] = self.as_type(name, wanted)
            if node.op_type == "Cast" and node.output[0] in self.types:  # bytes become numbers
                next(a for a in node.attribute if a.name == "to").i = wanted
            self.nodes.append(node)
            for name in node.output:
                if name in self.types:
                    self.types[name] = wanted
        for output in self.graph.output:
            self.restore(output.name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        del self.graph.value_info[:]

    def as_type(self, name: str, wanted: int) -> str:
        """The tensor in another type: a converted constant, or a cast made once."""
        if self.types[name] == wanted:
            return name
        if (name, wanted) in self.made:
            return self.made[name, wanted]
        copy = f"{name}.{TensorProto.DataType.Name(wanted).lower()}"
        if name in self.constants:
            values = numpy_helper.to_array(self.constants[name]).astype(NUMPY_TYPES[wanted])
            self.graph.initializer.append(numpy_helper.from_array(values, copy))
        else:
            self.nodes.append(helper.make_node("Cast", [name], [copy], to=wanted))
        self.made[name, wanted] = copy
        return copy

    def restore(self, output: str) -> None:
        """Give a public float output back its type."""
        if self.types.get(output, TensorProto.FLOAT) == TensorProto.FLOAT:
            return
        inner = f"{output}.half"
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == output:
                        names[index] = inner
        self.nodes.append(helper.make_node("Cast", [inner], [output], to=TensorProto.FLOAT))


def to_half(model: onnx.ModelProto, kept: Collection[str], precision: str = "fp16") -> onnx.ModelProto:
    """A copy of a float32 `model` whose nodes compute in `precision`, but for those named in `kept`."""
    copy = with_shapes(model)
    graph = copy.graph
    types: dict[str, int] = {
        value.name: TensorProto.FLOAT
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    types |= {t.name: TensorProto.FLOAT for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    _Converter(graph, TYPES[precision], kept, types).convert()
    if precision == "bf16":
        copy.opset_import[0].version = max(BF16_OPSET, copy.opset_import[0].version)
    return clean(copy, rename=False)


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph that computes what an FP16 or BF16 `model` does where float32 adds up; others as is.

    ONNX Runtime has no such kernels for x86: it widens an FP16 graph and drops the roundings between its
    nodes, so neither lost digits nor overflow would show, and refuses a BF16 graph. Here every tensor of
    the type is rounded to its digits (Veltkamp's splitting), and becomes NaN where its numbers end.
    """
    if not _has_rounded_types(model):
        return model
    copy = with_shapes(model)
    graph = copy.graph
    held = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    lowered = {name: elem_type for name, elem_type in held.items() if elem_type in ROUNDINGS}
    if not lowered:
        return copy
    for tensor in graph.initializer:
        if tensor.data_type in ROUNDINGS:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for elem_type in sorted(set(lowered.values())):
        for name, value in zip(_constants(elem_type), ROUNDINGS[elem_type], strict=True):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in ROUNDINGS:
                attribute.i = TensorProto.FLOAT
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in lowered:
                node.output[index] = f"{name}.exact"
                nodes += _round(f"{name}.exact", name, lowered[name])
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return clean(copy, rename=False)


def _has_rounded_types(model: onnx.ModelProto) -> bool:
    """Whether a constant or a cast is of FP16 or BF16: nothing else brings them into a graph of ours."""
    if any(tensor.data_type in ROUNDINGS for tensor in model.graph.initializer):
        return True
    casts = (node for node in model.graph.node if node.op_type == "Cast")
    return any(
        attribute.i in ROUNDINGS for node in casts for attribute in node.attribute if attribute.name == "to"
    )


def _constants(elem_type: int) -> tuple[str, str]:
    name = TensorProto.DataType.Name(elem_type).lower()
    return f"{name}.split", f"{name}.far"


def _round(source: str, target: str, elem_type: int) -> list[onnx.NodeProto]:
    split, limit = _constants(elem_type)
    parts = ("spread", "rest", "digits", "far", "none")
    spread, rest, digits, far, none = (f"{target}.{part}" for part in parts)
    return [
        helper.make_node("Mul", [source, split], [spread]),
        helper.make_node("Sub", [spread, source], [rest]),
        helper.make_node("Sub", [spread, rest], [digits]),
        helper.make_node("Mul", [digits, limit], [far]),  # infinite where the type would be
        helper.make_node("Sub", [far, far], [none]),  # zero, or NaN
        helper.make_node("Add", [digits, none], [target]),
    ]
