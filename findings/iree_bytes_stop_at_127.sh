#!/usr/bin/env bash
# Expected: ONNX's Cast from float32 to uint8 gives 200 for 200.0 when IREE has compiled it, as in ONNX Runtime.
# Instead: everything above 127 is 127, without a word: the cast is compiled as one to a signed byte, which ends there.
# Seen with IREE 3.13.0 (iree-base-compiler, llvm-cpu), whose answer has the type int8, too. In practice: pictures that
# a graph turns into bytes lose their brighter half. Cut the graph before the cast and make the bytes outside.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'iree-base-compiler[onnx]==3.13.0' iree-base-runtime==3.13.0 onnx==1.23.2 \
  onnxruntime==1.31.1 numpy==2.4.6 2> "$work/log" || { cat "$work/log"; exit 2; }
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import onnx
from onnx import TensorProto, helper

given = helper.make_tensor_value_info("level", TensorProto.FLOAT, [6])
wanted = helper.make_tensor_value_info("byte", TensorProto.UINT8, [6])
cast = helper.make_node("Cast", ["level"], ["byte"], to=TensorProto.UINT8)
graph = helper.make_graph([cast], "main", [given], [wanted])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "cast.onnx")
PYTHON
"$work/venv/bin/iree-import-onnx" cast.onnx -o cast.mlir
"$work/venv/bin/iree-compile" cast.mlir -o cast.vmfb --iree-hal-target-device=local \
  --iree-hal-local-target-device-backends=llvm-cpu --iree-llvmcpu-target-cpu=host
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import iree.runtime
import numpy as np
import onnxruntime

levels = np.array([0, 100, 127, 128, 200, 255], np.float32)
(right,) = onnxruntime.InferenceSession("cast.onnx").run(None, {"level": levels})
module = iree.runtime.load_vm_flatbuffer_file("cast.vmfb", driver="local-sync")
(main,) = [name for name in module.vm_module.function_names if "$" not in name and not name.startswith("__")]
found = module[main](levels).to_host()
print("IREE", version("iree-base-compiler"), "levels", levels.astype(int).tolist())
print("ONNX Runtime", right.tolist(), "IREE", found.view(np.uint8).tolist(), found.dtype)
sys.exit(found.view(np.uint8).tolist() != [0, 100, 127, 127, 127, 127])
PYTHON
