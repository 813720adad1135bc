#!/usr/bin/env bash
# A request that a step of an ensemble refuses is one failed request. Triton 2.51 adds 2 to the ensemble's
# nv_inference_request_failure (reason "OTHER"), and nothing to the step's that refused it. So a panel or an alert on
# the ensemble shows twice the failures, and one on the step shows none: count refusals in the step itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet nvidia-pytriton==0.7.0 numpy==1.26.4

python3 - "$folder" << 'PY'
import pathlib, sys
root = pathlib.Path(sys.argv[1]) / "models"
for name in ("step", "whole"):
    (root / name / "1").mkdir(parents=True)
(root / "step" / "1" / "model.py").write_text('''
import triton_python_backend_utils as pb
class TritonPythonModel:
    def execute(self, requests):
        error = pb.TritonError("refused", pb.TritonError.INVALID_ARG)
        return [pb.InferenceResponse(error=error) for _ in requests]
''')
tensors = '''
input [{ name: "%s" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "%s" data_type: TYPE_INT32 dims: [1] }]
'''
(root / "step" / "config.pbtxt").write_text(
    'name: "step" backend: "python" max_batch_size: 0 instance_group [{ kind: KIND_CPU }]' + tensors % ("X", "Y"))
(root / "whole" / "config.pbtxt").write_text('name: "whole" platform: "ensemble" max_batch_size: 0' + tensors % ("A", "B")
    + 'ensemble_scheduling { step [{ model_name: "step" model_version: -1 input_map { key: "X" value: "A" }'
    + ' output_map { key: "Y" value: "B" } }] }')
PY
home=$("$folder/env/bin/python" -c 'import os, pytriton; print(os.path.dirname(pytriton.__file__))')
version=$("$folder/env/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
mkdir -p "$folder/backends/python"
find "$home/tritonserver/backends/python" -maxdepth 1 -type f -exec cp {} "$folder/backends/python/" \;
cp "$home/tritonserver/python_backend_stubs/$version/triton_python_backend_stub" "$folder/backends/python/"
read -r http grpc metrics < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(each.getsockname()[1] for each in held))')
library=$("$folder/env/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
LD_LIBRARY_PATH="$(dirname "$home")/nvidia_pytriton.libs:$library" PATH="$folder/env/bin:$PATH" \
    "$home/tritonserver/bin/tritonserver" --model-repository="$folder/models" --backend-directory="$folder/backends" \
    --http-address=127.0.0.1 --http-port="$http" --grpc-address=127.0.0.1 --grpc-port="$grpc" \
    --metrics-address=127.0.0.1 --metrics-port="$metrics" --disable-auto-complete-config > "$folder/log" 2>&1 &
server=$!

python3 - "$http" "$metrics" << 'PY'
import json, re, sys, time, urllib.error, urllib.request
http, metrics = sys.argv[1:]
base = f"http://127.0.0.1:{http}/v2"
for _ in range(600):
    try:
        urllib.request.urlopen(f"{base}/health/ready")
        break
    except OSError:
        time.sleep(0.1)
print("server", json.load(urllib.request.urlopen(base))["version"])
body = json.dumps({"inputs": [{"name": "A", "datatype": "INT32", "shape": [1], "data": [1]}]}).encode()
try:
    urllib.request.urlopen(urllib.request.Request(f"{base}/models/whole/infer", data=body))
    sys.exit("the request was not refused")
except urllib.error.HTTPError as error:
    print("one request:", error.code, error.read().decode())
page = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics").read().decode()
counts = {"whole": 0, "step": 0}
for model, count in re.findall(r'^nv_inference_request_failure\{model="(\w+)".*\} (\d+)$', page, re.MULTILINE):
    counts[model] += int(count)
print("failures counted:", counts)
sys.exit(counts != {"whole": 2, "step": 0})
PY
echo "unchanged: one refused request is two failures of the ensemble and none of the step"
