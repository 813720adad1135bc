#!/usr/bin/env bash
# Expected: a graph that ONNX Runtime runs at opset 20 runs at opset 21, too, where no operator in it has changed.
# Instead: it refuses one with a signed int8 tensor that is only pooled (or reshaped, or transposed) before float
# operators: it gives the pooled tensor a pair of QuantizeLinear and DequantizeLinear of its own, turns the zero point
# of that pair into uint8, forgets its output_dtype, and then fails its own check of types. Valid for onnx.checker.
# Seen with ONNX Runtime 1.31.1 on x86-64 without VNNI, where it prefers uint8 to int8. In practice: an INT8 graph that
# somebody's tool converts to opset 21 does not load. Write a pair with the same scale behind what only moves values.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6 2> "$work/log" || { cat "$work/log"; exit 2; }
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def graph(opset, paired):
    """Quantised, pooled, made positive; with `paired`, the pooled tensor has its own pair."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("MaxPool", ["d"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    if paired:
        nodes += [
            helper.make_node("QuantizeLinear", ["pooled", "scale", "zero"], ["q2"]),
            helper.make_node("DequantizeLinear", ["q2", "scale", "zero"], ["d2"]),
        ]
    nodes.append(helper.make_node("Abs", ["d2" if paired else "pooled"], ["y"]))
    constants = [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 2, 2])
    made = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


print("ONNX Runtime", onnxruntime.__version__)
loads = {}
for opset in (20, 21):
    for paired in (False, True):
        try:
            onnxruntime.InferenceSession(graph(opset, paired), providers=["CPUExecutionProvider"])
            said = "loads"
        except Exception as error:
            said = str(error)
        loads[opset, paired] = said == "loads"
        print(f"opset {opset}, {'with' if paired else 'without'} a pair behind the pooling: {said}")
sys.exit(loads != {(20, False): True, (20, True): True, (21, False): False, (21, True): True})
PYTHON
