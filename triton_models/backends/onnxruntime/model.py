"""A Triton backend in Python that runs ONNX files, for servers that lack the stock `onnxruntime` backend.

The embedded server has the python backend only. With this folder under its `--backend-directory`, a model
whose config says `backend: "onnxruntime"` is served unchanged; a stock server image uses its own C++ backend.
A model of `backend: "python"` that names a `library` has this file beside its graph, and runs on OpenVINO.
Requests that the dynamic batcher put together run as one batch, and of equal rows
the encoder sees one: clients that show the same picture share its run.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from icgan_runtime.cpus import default_threads
from icgan_runtime.errors import MissingExtraError
from icgan_runtime.server.stage import keep_to_the_end

# Of a model's parameters: "true" where equal rows of several requests are worth looking for.
EQUAL_ROWS_ONCE = "equal_rows_once"

# Longer than threads wait for each other while nothing else runs.
SPIN_US = 20

Feed = dict[str, NDArray[Any]]
Run = Callable[[Feed], Sequence[NDArray[Any]]]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.batching = config["max_batch_size"] > 0
        self.sharing = _parameter(config, EQUAL_ROWS_ONCE, "") == "true"
        if self.sharing:
            # kept: a metric dies with the family object it came from
            self.family = pb_utils.MetricFamily(
                name="icgan_shared_rows_total",
                description="Rows of a request that were computed for another one that waited beside it",
                kind=pb_utils.MetricFamily.COUNTER,
            )
            self.shared = self.family.Metric(labels={"model": config["name"]})
        library = _parameter(config, "library", "")
        threads = int(_parameter(config, "intra_op_thread_count", str(default_threads())))
        if library:
            one_row = config["name"] == "icgan_generator"
            self.run = _openvino(folder / "model.onnx", library, threads, self.outputs, one_row)
        else:
            self.run = _onnxruntime(
                folder / (config["default_model_filename"] or "model.onnx"), threads, self.outputs
            )

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        feeds = [{name: _tensor(request, name) for name in self.inputs} for request in requests]
        if self.batching and len(feeds) > 1:
            # a stranger's bad request must not take those beside it along: each has its own run then
            with contextlib.suppress(Exception):
                return self._together(feeds)
        return [self._alone(feed) for feed in feeds]

    def finalize(self) -> None:
        keep_to_the_end(self)

    def _alone(self, feed: Feed) -> pb_utils.InferenceResponse:
        try:
            return self._answer(self.run(feed))
        except Exception as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

    def _together(self, feeds: list[Feed]) -> list[pb_utils.InferenceResponse]:
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
        results = self._once(joined) if self.sharing else self.run(joined)
        ends = np.cumsum([len(feed[self.inputs[0]]) for feed in feeds])[:-1]
        parts = [np.split(result, ends) for result in results]
        return [self._answer(arrays) for arrays in zip(*parts, strict=True)]

    def _once(self, joined: Feed) -> Sequence[NDArray[Any]]:
        """The results for rows of several requests, of equal ones computed once."""
        first, place = distinct_rows(list(joined.values()))
        if len(first) == len(place):
            return self.run(joined)
        results = self.run({name: array[first] for name, array in joined.items()})
        self.shared.increment(len(place) - len(first))
        return [result[place] for result in results]

    def _answer(self, arrays: Sequence[NDArray[Any]]) -> pb_utils.InferenceResponse:
        tensors = [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)]
        return pb_utils.InferenceResponse(tensors)


def distinct_rows(arrays: Sequence[NDArray[Any]]) -> tuple[list[int], list[int]]:
    """Of arrays [N, ...] the first of the rows that are equal in all, and which of those each row [N] is."""
    known: dict[tuple[bytes, ...], int] = {}
    place = [
        known.setdefault(tuple(each.tobytes() for each in row), len(known))
        for row in zip(*arrays, strict=True)
    ]
    return [place.index(number) for number in range(len(known))], place


def _onnxruntime(file: Path, threads: int, outputs: list[str]) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # spinning on between requests would steal the other stages' cores
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # and for long within one, too: by default a thread waits a millisecond for another that has lost its core
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    # INT8 products do not overflow on processors without VNNI, as in icgan_runtime
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(outputs, feed)


def _openvino(file: Path, library: str, threads: int, outputs: list[str], one_row: bool) -> Run:
    try:
        from icgan_runtime.backends.openvino import OpenVinoSession
    except ImportError:
        raise MissingExtraError("openvino", "openvino") from None
    session = OpenVinoSession(file.read_bytes(), file.name, library, threads, one_row)

    def run(feed: Feed) -> Sequence[NDArray[Any]]:
        found = session.run(feed)
        return [found[name] for name in outputs]

    return run


def _tensor(request: pb_utils.InferenceRequest, name: str) -> NDArray[Any]:
    found = pb_utils.get_input_tensor_by_name(request, name)
    assert found is not None
    return found.as_numpy()


def _parameter(config: dict[str, Any], name: str, default: str) -> str:
    """A `parameters` entry of the model's config, as the stock backend would read it."""
    found: str = config["parameters"].get(name, {}).get("string_value", default)
    return found
