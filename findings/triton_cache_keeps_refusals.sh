#!/usr/bin/env bash
# A server with a response cache answers a request that comes again as it did the first time. Triton 2.51 does not: what
# a Python model refused (an error in its response) comes back as a success without any output, in an ensemble as the
# next step's complaint about a missing input; and the key leaves out which outputs were asked for, so that whoever asks
# for both after somebody asked for one gets one. Let a model keep answers only if it has one output and refuses nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet nvidia-pytriton==0.7.0 numpy==1.26.4

python3 - "$folder" << 'PY'
import pathlib, sys
folder = pathlib.Path(sys.argv[1]) / "models" / "halves"
(folder / "1").mkdir(parents=True)
(folder / "1" / "model.py").write_text('''
import triton_python_backend_utils as pb
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]
    def answer(self, request):
        x = pb.get_input_tensor_by_name(request, "X").as_numpy()
        if (x < 0).any():
            return pb.InferenceResponse(error=pb.TritonError("X is negative", pb.TritonError.INVALID_ARG))
        return pb.InferenceResponse([pb.Tensor("HALF", x // 2), pb.Tensor("REST", x % 2)])
''')
(folder / "config.pbtxt").write_text('''
name: "halves" backend: "python" max_batch_size: 8 instance_group [{ kind: KIND_CPU }]
input [{ name: "X" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "HALF" data_type: TYPE_INT32 dims: [1] }, { name: "REST" data_type: TYPE_INT32 dims: [1] }]
dynamic_batching {} response_cache { enable: true }
''')
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
    --metrics-address=127.0.0.1 --metrics-port="$metrics" --disable-auto-complete-config \
    --cache-directory="$home/tritonserver/caches" --cache-config=local,size=1048576 > "$folder/log" 2>&1 &
server=$!

python3 - "$http" << 'PY'
import json, sys, time, urllib.error, urllib.request
base = f"http://127.0.0.1:{sys.argv[1]}/v2"
for _ in range(600):
    try:
        urllib.request.urlopen(f"{base}/health/ready")
        break
    except OSError:
        time.sleep(0.1)
print("server", json.load(urllib.request.urlopen(base))["version"])

def ask(x, *outputs):
    """The names of the outputs, or the status of a refusal."""
    request = {"inputs": [{"name": "X", "datatype": "INT32", "shape": [1, 1], "data": [x]}]}
    request |= {"outputs": [{"name": name} for name in outputs]} if outputs else {}
    try:
        with urllib.request.urlopen(f"{base}/models/halves/infer", data=json.dumps(request).encode()) as answer:
            return sorted(output["name"] for output in json.load(answer).get("outputs", []))
    except urllib.error.HTTPError as error:
        return error.code

refused = [ask(-1), ask(-1)]
print("a request that is refused, twice:", *refused)
parts = [ask(7, "HALF"), ask(7, "HALF", "REST")]
print("one output, then both:", *parts)
sys.exit(refused != [400, []] or parts != [["HALF"], ["HALF"]])
PY
echo "unchanged: a refusal is kept as an empty answer, and a part of the outputs as all of them"
