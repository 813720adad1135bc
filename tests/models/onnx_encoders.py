"""Small ONNX encoders as people have them: of one vector, of tokens behind a class token, of a map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

WIDTH = 12  # of one vector; tokens and places have CHANNELS
CHANNELS, PATCH = 8, 8
OUTPUTS: dict[str, list[Any]] = {
    "image_embeds": [WIDTH],
    "last_hidden_state": ["tokens", CHANNELS],
    "map": [CHANNELS, "h", "w"],
}


def onnx_encoder(
    *,
    outputs: Sequence[str] = ("image_embeds",),
    batch: int | str = "batch_size",
    side: int | str = 32,
    channels: int | str = 3,
    channels_last: bool = False,
    opset: int = 17,
    inputs: Sequence[str] = (),  # further ones, which text_embeds depends on
) -> ModelProto:
    """Random weights, always the same; `batch` and `side` are numbers where the file fixes them."""
    rng = np.random.default_rng(7)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.normal(0, 0.4, shape).astype(np.float32), name)

    def integers(name: str, *values: int) -> TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    node = helper.make_node
    weights = [
        weight("kernel", CHANNELS, 3, PATCH, PATCH),
        weight("bias", CHANNELS),
        weight("matrix", CHANNELS, WIDTH),
    ]
    nodes = [node("Transpose", ["pixel_values"], ["planes"], perm=[0, 3, 1, 2])] if channels_last else []
    picture = "planes" if channels_last else "pixel_values"
    nodes += [
        node("Conv", [picture, "kernel", "bias"], ["patches"], kernel_shape=[PATCH] * 2, strides=[PATCH] * 2),
        node("Relu", ["patches"], ["map"]),
    ]
    if "image_embeds" in outputs:
        nodes += [
            node("GlobalAveragePool", ["map"], ["pooled"]),
            node("Flatten", ["pooled"], ["flat"]),
            node("MatMul", ["flat", "matrix"], ["image_embeds"]),
        ]
    if "last_hidden_state" in outputs:
        weights += [
            weight("class_token", 1, 1, CHANNELS),
            integers("tokens_first", batch if isinstance(batch, int) else 0, CHANNELS, -1),
        ]
        # of a fixed batch as torch exports it: zeros, of which there are none, would be no rows
        literally: dict[str, Any] = {"allowzero": 1} if isinstance(batch, int) else {}
        nodes += [
            node("Reshape", ["map", "tokens_first"], ["turned"], **literally),
            node("Transpose", ["turned"], ["tokens"], perm=[0, 2, 1]),
        ]
        token = "class_token"
        if isinstance(batch, str):  # one for each picture, as exporters write it
            weights += [integers("zero", 0), integers("one_token", 1, CHANNELS)]
            nodes += [
                node("Shape", ["tokens"], ["sizes"]),
                node("Gather", ["sizes", "zero"], ["rows"]),
                node("Concat", ["rows", "one_token"], ["token_shape"], axis=0),
                node("ConstantOfShape", ["token_shape"], ["nothing"]),
                node("Add", ["nothing", "class_token"], ["class_tokens"]),
            ]
            token = "class_tokens"
        nodes.append(node("Concat", [token, "tokens"], ["last_hidden_state"], axis=1))
    graph_inputs = [
        _value("pixel_values", [batch, side, side, 3] if channels_last else [batch, channels, side, side])
    ]
    graph_outputs = [_value(name, [batch, *OUTPUTS[name]]) for name in outputs]
    for name in inputs:
        graph_inputs.append(_value(name, ["texts", WIDTH]))
        nodes.append(node("Tanh", [name], ["text_embeds"]))
        graph_outputs.append(_value("text_embeds", ["texts", WIDTH]))
    graph = helper.make_graph(nodes, "main_graph", graph_inputs, graph_outputs, weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset > 20 else 8
    )


def _value(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def write(model: ModelProto, path: Path, external: bool = False) -> Path:
    """The file, with `external` its weights in one beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(
        model, path, save_as_external_data=external, location=f"{path.name}_data", size_threshold=0
    )
    return path
