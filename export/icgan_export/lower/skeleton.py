"""Shape inference and checks that do not read the weights.

ONNX's own functions serialise the whole model, parse it and serialise it again. On a generator of some
hundred megabytes that takes seconds, and choosing what stays in float32 asks for it hundreds of times, though
weights say nothing about shapes beyond their own. What is passed on here is the graph without them.
"""

from __future__ import annotations

import onnx
from onnx import helper

SMALL = 1024  # bytes: shapes, axes and scales, whose values shape inference reads


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with the type and shape of every tensor, as `onnx.shape_inference.infer_shapes`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(_skeleton(model)).graph
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(inferred.value_info)
    return copy


def check(model: onnx.ModelProto) -> None:
    """ONNX's full check of the graph, of whose weights only types and shapes are looked at.

    Raises onnx.checker.ValidationError or onnx.shape_inference.InferenceError.
    """
    onnx.checker.check_model(_skeleton(model), full_check=True)


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its weights as inputs."""
    bare = onnx.ModelProto()
    bare.ir_version = model.ir_version
    bare.opset_import.extend(model.opset_import)
    graph, copy = model.graph, bare.graph
    copy.name = graph.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(copy, field).extend(getattr(graph, field))
    named = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if tensor.ByteSize() <= SMALL:
            copy.initializer.append(tensor)
        elif tensor.name not in named:
            copy.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare
