#!/usr/bin/env bash
# An integer in a JSON request that its tensor's type cannot hold should be refused. Triton 2.51 refuses it for INT64
# (with status 500 and without the input's name) but wraps it silently for narrower types: INT32 4294967297 is read as
# 1, UINT8 256 as 0, INT16 70000 as 4464, each with status 200. A model has to take INT64 if it wants to check a range;
# clients that send binary tensors are not concerned.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet nvidia-pytriton==0.7.0 numpy==1.26.4

python3 - "$folder" << 'PY'
import pathlib, sys
root = pathlib.Path(sys.argv[1]) / "models"
kinds = ("INT64", "INT32", "INT16", "UINT8")
for kind in kinds:
    (root / kind / "1").mkdir(parents=True)
    (root / kind / "1" / "model.py").write_text('''
import triton_python_backend_utils as pb
class TritonPythonModel:
    def execute(self, requests):
        given = [pb.get_input_tensor_by_name(request, "A").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("B", array)]) for array in given]
''')
    (root / kind / "config.pbtxt").write_text(
        f'name: "{kind}" backend: "python" max_batch_size: 0 instance_group [{{ kind: KIND_CPU }}]'
        f' input [{{ name: "A" data_type: TYPE_{kind} dims: [1] }}] output [{{ name: "B" data_type: TYPE_{kind} dims: [1] }}]')
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
import json, sys, time, urllib.error, urllib.request
http, metrics = sys.argv[1:]
base = f"http://127.0.0.1:{http}/v2"
for _ in range(600):
    try:
        urllib.request.urlopen(f"{base}/health/ready")
        break
    except OSError:
        time.sleep(0.1)
print("server", json.load(urllib.request.urlopen(base))["version"])
found = {}
for kind, value in (("INT64", 2**63), ("INT32", 4294967297), ("INT16", 70000), ("UINT8", 256)):
    inputs = [{"name": "A", "datatype": kind, "shape": [1], "data": [value]}]
    body = json.dumps({"inputs": inputs}).encode()
    try:
        answer = json.load(urllib.request.urlopen(urllib.request.Request(f"{base}/models/{kind}/infer", data=body)))
        found[kind] = answer["outputs"][0]["data"][0]
    except urllib.error.HTTPError as error:
        found[kind] = error.code
    print(f"{kind} {value}: {'status' if found[kind] == 500 else 'read as'} {found[kind]}")
sys.exit(found != {"INT64": 500, "INT32": 1, "INT16": 4464, "UINT8": 0})
PY
echo "unchanged: integers too large for a narrow type wrap silently in JSON"
