"""The graph of an encoder that is an ONNX file: its own, our preprocessing before it, the norm behind it.

Nothing is traced: what was compared with the user's file when the data set was prepared is what runs.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from icgan_export.lower.onnx_export import BATCH_AXIS
from icgan_export.rewrite.encoder import NORM_EPS, resize_matrix
from icgan_training.networks.encoder import Encoder
from icgan_training.networks.onnx_backbone import OnnxBackbone
from icgan_training.networks.onnx_graph import FEATURE, PIXELS


def around_graph(encoder: Encoder, size: int) -> ModelProto:
    """`image` uint8 [N, size, size, 3] -> `embedding` float32 [N, D], unit rows.

    The mean is subtracted from the small picture, and enlargement is two matrix products, as in
    `rewrite/encoder.py`; the division by the deviation is in the first of them, a matrix for each colour.
    """
    backbone, config = encoder.backbone, encoder.config
    assert isinstance(backbone, OnnxBackbone)
    model = onnx.load_model_from_string(backbone.content)
    graph = model.graph

    def constant(name: str, value: NDArray[np.float32] | NDArray[np.int64]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    mean = constant("mean", (255 * encoder.mean.double()).float().numpy())  # [1, 3, 1, 1]
    scale = 1 / (255 * encoder.std.double())
    before = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", mean], ["centred"]),
    ]
    if size == config.input_size:
        before.append(
            helper.make_node("Mul", ["centred", constant("scale", scale.float().numpy())], [PIXELS])
        )
    else:
        matrix = resize_matrix(size, config.input_size, config.resize)
        rows = constant("rows", (scale * matrix).float().numpy())  # [1, 3, enlarged, size]
        columns = constant("columns", matrix.t().contiguous().float().numpy())
        before.append(helper.make_node("MatMul", [rows, "centred"], ["taller"]))
        before.append(helper.make_node("MatMul", ["taller", columns], [PIXELS]))
    axes = constant("axes", np.array([1], np.int64))
    least = constant("least", np.array(NORM_EPS**2, np.float32))
    behind = [
        helper.make_node("Mul", [FEATURE, FEATURE], ["squares"]),
        helper.make_node("ReduceSum", ["squares", axes], ["sum"], keepdims=1),
        helper.make_node("Clip", ["sum", least], ["bounded"]),
        helper.make_node("Sqrt", ["bounded"], ["norm"]),
        helper.make_node("Div", [FEATURE, "norm"], ["embedding"]),
    ]
    nodes = [*before, *graph.node, *behind]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, [BATCH_AXIS, size, size, 3]))
    shape: list[str | int | None] = [BATCH_AXIS, config.embedding_dim]
    graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, shape))
    return model
