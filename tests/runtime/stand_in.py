"""What a client sees of a server, in this process: the KServe protocol over gRPC and HTTP.

The answers are those of the in-process chain. It refuses, drops and hangs when told to, which a real server
does in its own time (tests/triton has one).
"""

from __future__ import annotations

import json
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, triton_to_np_dtype

from icgan_runtime import Pipeline
from icgan_runtime.bundle.strict_json import to_json
from icgan_runtime.chain import LocalChain
from icgan_runtime.rows import CONDITIONS, OWN_LABEL

MAX_BATCH = 4
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "INTERNAL": 500,
}
Arrays = dict[str, np.ndarray]


class RefusedError(Exception):
    """A status by gRPC's name, and the server's words."""


@dataclass
class StandIn:
    """One bundle behind both protocols; `with` serves it."""

    bundle: Path
    seen: list[str] = field(default_factory=list)  # models asked, and what was done to regions
    timeouts: list[int] = field(default_factory=list)  # microseconds, as the requests say
    refusals: deque[tuple[str, str]] = field(default_factory=deque)  # of the next requests to a model
    region_refusals: deque[tuple[str, str]] = field(default_factory=deque)  # of the next words on regions
    regions: dict[str, tuple[str, int]] = field(default_factory=dict)  # name -> (key, size)
    patience: threading.Event = field(default_factory=threading.Event)  # cleared: answers wait
    change: dict[str, Any] = field(default_factory=dict)  # put over the configuration

    def __enter__(self) -> StandIn:
        self.patience.set()
        self.pipe = Pipeline.load(self.bundle)
        self.grpc = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Grpc(self), self.grpc)
        self.grpc_url = f"grpc://127.0.0.1:{self.grpc.add_insecure_port('127.0.0.1:0')}"
        self.grpc.start()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Http,), {"stand_in": self}))
        self.http.daemon_threads = True
        self.http_url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.patience.set()
        self.grpc.stop(None)
        self.http.shutdown()
        self.http.server_close()
        self.pipe.close()

    def url(self, protocol: str) -> str:
        return self.grpc_url if protocol == "grpc" else self.http_url

    def config(self) -> dict[str, Any]:
        """As Triton reports that of the ensemble `icgan`."""
        neighbours = self.pipe.chain.neighbours
        outputs = {"GENERATED": [8, 8, 3], "NEIGHBOUR_IDS": [neighbours], "NEIGHBOUR_SCORES": [neighbours]}
        if self.pipe.bank.labels is not None:
            outputs["NEIGHBOUR_LABELS"] = [neighbours]
        return {
            "name": "icgan",
            "max_batch_size": MAX_BATCH,
            "output": [{"name": name, "dims": dims} for name, dims in outputs.items()],
            "parameters": {"model": {"string_value": json.dumps(to_json(self.pipe.model))}},
            **self.change,
        }

    def infer(self, model: str, inputs: Arrays, timeout: int) -> Arrays:
        self.seen.append(model)
        self.timeouts.append(timeout)
        if self.refusals:
            raise RefusedError(*self.refusals.popleft())
        self.patience.wait(10)
        if model == "icgan_generator":  # the stage itself: one number per row is a row of one
            assert len(inputs["noise"]) <= MAX_BATCH
            chain, plain = self.pipe.chain, ("label", "truncation")
            assert isinstance(chain, LocalChain)
            return chain.generator.run(
                {name: array[:, 0] if name in plain else array for name, array in inputs.items()}
            )
        if "IMAGE" in inputs:
            embedding = self.pipe.embed([row[0] for row in inputs["IMAGE"]])
        elif "PIXELS" in inputs:
            embedding = self.pipe.embed(list(inputs["PIXELS"]))
        else:
            embedding = inputs["EMBEDDING"]
        scalars = {name: array[:, 0] for name, array in inputs.items() if array.shape[1:] == (1,)}
        assert len(embedding) <= MAX_BATCH
        results = [self._row(embedding[row], scalars, row) for row in range(len(embedding))]
        outputs = {
            "EMBEDDING": embedding,
            "GENERATED": np.concatenate([result.images for result in results]),
            "NEIGHBOUR_IDS": np.stack([result.neighbours.ids for result in results]),
            "NEIGHBOUR_SCORES": np.stack([result.neighbours.scores for result in results]),
        }
        if self.pipe.bank.labels is not None:
            outputs["NEIGHBOUR_LABELS"] = np.stack([result.neighbours.labels for result in results])
        return outputs

    def _row(self, embedding: np.ndarray, scalars: Arrays, row: int) -> Any:
        label = int(scalars["LABEL"][row]) if "LABEL" in scalars else OWN_LABEL
        truncation = float(scalars["TRUNCATION"][row])
        return self.pipe.generate_from(
            embedding,
            n=1,
            seed=int(scalars["SEED"][row]),
            truncation=None if np.isinf(truncation) else truncation,
            condition=CONDITIONS[scalars["CONDITION"][row]],
            label=None if label == OWN_LABEL else label,
            first=int(scalars["SAMPLE"][row]),
        )

    def tell(self, verb: str, name: str, key: str = "", size: int = 0) -> None:
        self.seen.append(verb)
        if self.region_refusals:
            raise RefusedError(*self.region_refusals.popleft())
        if verb == "register":
            self.regions[name] = (key, size)
        else:
            del self.regions[name]

    def memory(self, name: str) -> SharedMemory:
        if name not in self.regions:
            raise RefusedError("NOT_FOUND", f"Unable to find shared memory region: '{name}'")
        return SharedMemory(self.regions[name][0].lstrip("/"))

    def read(self, name: str, size: int) -> bytes:
        memory = self.memory(name)
        try:
            return np.ndarray(size, np.uint8, memory.buf).tobytes()
        finally:
            memory.close()

    def write(self, name: str, array: np.ndarray) -> None:
        memory = self.memory(name)
        try:
            np.ndarray(array.shape, array.dtype, memory.buf)[...] = array
        finally:
            memory.close()


def _array(data: bytes, datatype: str, shape: list[int]) -> np.ndarray:
    if datatype == "BYTES":
        return np.array(list(deserialize_bytes_tensor(data)), dtype=object).reshape(shape)
    return np.frombuffer(data, triton_to_np_dtype(datatype)).reshape(shape)


class _Grpc(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return json_format.ParseDict({"config": self.stand_in.config()}, pb.ModelConfigResponse())

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        raw = iter(request.raw_input_contents)
        inputs = {}
        for tensor in request.inputs:
            region = tensor.parameters["shared_memory_region"].string_param
            size = tensor.parameters["shared_memory_byte_size"].int64_param
            try:
                data = self.stand_in.read(region, size) if region else next(raw)
            except RefusedError as refused:
                context.abort(getattr(grpc.StatusCode, refused.args[0]), refused.args[1])
            inputs[tensor.name] = _array(data, tensor.datatype, list(tensor.shape))
        try:
            outputs = self.stand_in.infer(
                request.model_name, inputs, request.parameters["timeout"].int64_param
            )
        except RefusedError as refused:
            context.abort(getattr(grpc.StatusCode, refused.args[0]), refused.args[1])
        answer = pb.ModelInferResponse(model_name=request.model_name)
        for tensor in request.outputs:
            array = outputs[tensor.name]
            answer.outputs.add(
                name=tensor.name, datatype=np_to_triton_dtype(array.dtype), shape=list(array.shape)
            )
            region = tensor.parameters["shared_memory_region"].string_param
            if region:
                self.stand_in.write(region, array)
            answer.raw_output_contents.append(b"" if region else array.tobytes())
        return answer

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._tell(context, "register", request.name, request.key, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._tell(context, "unregister", request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def _tell(self, context: Any, *words: Any) -> None:
        try:
            self.stand_in.tell(*words)
        except RefusedError as refused:
            context.abort(getattr(grpc.StatusCode, refused.args[0]), refused.args[1])


class _Http(BaseHTTPRequestHandler):
    stand_in: StandIn
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece

    def do_GET(self) -> None:
        self._send(200, json.dumps(self.stand_in.config()).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        *_, name, verb = self.path.split("/")
        try:
            if verb == "infer":
                self._infer(name, body)
            else:
                facts = json.loads(body or "{}")
                self.stand_in.tell(verb, name, facts.get("key", ""), facts.get("byte_size", 0))
                self._send(200, b"")
        except RefusedError as refused:
            status, words = refused.args
            self._send(HTTP_STATUS[status], json.dumps({"error": words}).encode())

    def _infer(self, model: str, body: bytes) -> None:
        split = int(self.headers["Inference-Header-Content-Length"])
        head, data = json.loads(body[:split]), body[split:]
        inputs = {}
        for tensor in head["inputs"]:
            said = tensor["parameters"]
            if "shared_memory_region" in said:
                part = self.stand_in.read(said["shared_memory_region"], said["shared_memory_byte_size"])
            else:
                part, data = data[: said["binary_data_size"]], data[said["binary_data_size"] :]
            inputs[tensor["name"]] = _array(part, tensor["datatype"], tensor["shape"])
        outputs = self.stand_in.infer(model, inputs, head["parameters"]["timeout"])
        described, parts = [], []
        for tensor in head["outputs"]:
            array = outputs[tensor["name"]]
            entry: dict[str, Any] = {
                "name": tensor["name"],
                "datatype": np_to_triton_dtype(array.dtype),
                "shape": list(array.shape),
            }
            region = tensor["parameters"].get("shared_memory_region")
            if region:
                self.stand_in.write(region, array)
            else:
                entry["parameters"] = {"binary_data_size": array.nbytes}
                parts.append(array.tobytes())
            described.append(entry)
        header = json.dumps({"model_name": model, "outputs": described}).encode()
        self._send(200, header + b"".join(parts), {"Inference-Header-Content-Length": str(len(header))})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on stderr."""
