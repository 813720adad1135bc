"""Requests as any KServe client would send them, over HTTP and gRPC."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from icgan_runtime.server.process import Server

pytest.importorskip("tritonclient.utils", reason="pip install 'icgan[triton]'")
from tritonclient.utils import InferenceServerException

PROTOCOLS = ("http", "grpc")
TYPES = {
    "IMAGE": ("BYTES", object),
    "FORMAT": ("BYTES", object),
    "PIXELS": ("UINT8", np.uint8),
    "EMBEDDING": ("FP32", np.float32),
    "SEED": ("INT64", np.int64),
    "SAMPLE": ("INT64", np.int64),
    "TRUNCATION": ("FP32", np.float32),
    "CONDITION": ("INT32", np.int32),
    "LABEL": ("INT64", np.int64),
}


class RefusedError(Exception):
    """The server's answer to a bad request: its status as text, and its words."""

    def __init__(self, status: str, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status = status
        self.words = words

    @property
    def is_invalid_argument(self) -> bool:
        return self.status in ("400", "StatusCode.INVALID_ARGUMENT")


class Wire:
    """A client of one server over one protocol."""

    def __init__(self, server: Server, protocol: str) -> None:
        self.server = server
        self.library = pytest.importorskip(f"tritonclient.{protocol}", reason="pip install 'icgan[triton]'")
        port = server.options.ports.http if protocol == "http" else server.options.ports.grpc
        self.client = self.library.InferenceServerClient(f"{server.options.host}:{port}")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def ask(
        self, model: str, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Send `inputs` (arrays, or lists with one entry per row) and return every output, or `outputs`."""
        tensors = [self._tensor(name, value) for name, value in inputs.items()]
        wanted = outputs and [self.library.InferRequestedOutput(name) for name in outputs]
        result = self.infer(model, tensors, wanted)
        answer = result.get_response()
        listed = answer["outputs"] if isinstance(answer, dict) else answer.outputs
        names = [item["name"] if isinstance(item, dict) else item.name for item in listed]
        return {name: result.as_numpy(name) for name in names}

    def infer(self, model: str, tensors: Sequence[Any], outputs: Sequence[Any] | None = None) -> Any:
        """The client's own result. Raises RefusedError."""
        try:
            return self.client.infer(model, tensors, outputs=outputs)
        except InferenceServerException as error:
            raise RefusedError(str(error.status()), str(error.message())) from None

    def _tensor(self, name: str, value: Any) -> Any:
        kind, dtype = TYPES[name]
        array = value
        if not isinstance(value, np.ndarray):
            array = np.array(value, dtype=dtype)
            array = array[:, None] if array.ndim == 1 else array
        tensor = self.library.InferInput(name, array.shape, kind)
        tensor.set_data_from_numpy(array)
        return tensor


def rows(n: int, **changes: Any) -> dict[str, Any]:
    """The scalar inputs of n rows with plain values."""
    plain = {
        "SEED": [0] * n,
        "SAMPLE": list(range(n)),
        "TRUNCATION": [0.7] * n,
        "CONDITION": [0] * n,
    }
    return plain | changes


def statistics(server: Server) -> dict[str, int]:
    """Rows each model has computed so far, read until they rest: answers leave before they are booked."""
    counts = _counts(server)
    for _ in range(50):
        time.sleep(0.3)
        counts, before = _counts(server), counts
        if counts == before:
            return counts
    raise AssertionError(f"the server's statistics do not come to rest: {counts}")


def _counts(server: Server) -> dict[str, int]:
    answer = json.loads(server.call("v2/models/stats"))
    return {entry["name"]: entry["inference_count"] for entry in answer["model_stats"]}
