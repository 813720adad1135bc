#!/usr/bin/env bash
# Expected: torch.onnx.export (dynamo) writes x + 1e-8 as an addition: its optimiser drops adding 0, not adding something.
# Instead: the optimiser of onnxscript, which runs by default, compares constants with an absolute tolerance of 1e-8, so
# that this one counts as 0 and the Add is gone. 1.1e-8 stays.
# Seen with onnxscript 0.7.2. In practice: x * rsqrt(mean(x * x) + 1e-8), StyleGAN's normalisation, gives NaN for a row of
# zeros in the graph, and 0 in torch. Add to the sum instead of the mean, so that the constant is larger.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnx==1.23.2 onnxscript==0.7.2 2> "$work/log" || { cat "$work/log"; exit 2; }
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnxscript
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer


def adds(constant):
    """How many additions of the constant are left."""
    value = numpy_helper.from_array(np.array(constant, np.float32), "constant")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    nodes = [helper.make_node("Add", ["x", "constant"], ["sum"]), helper.make_node("Sqrt", ["sum"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [value])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return [node.op_type for node in optimizer.optimize(model).graph.node].count("Add")


print("onnxscript", onnxscript.__version__)
found = {constant: adds(constant) for constant in (0.0, 1e-9, 1e-8, 1.1e-8, 1e-6)}
for constant, count in found.items():
    print(f"x + {constant:g}: {'kept' if count else 'dropped'}")
sys.exit(found != {0.0: 0, 1e-9: 0, 1e-8: 0, 1.1e-8: 1, 1e-6: 1})
PYTHON
