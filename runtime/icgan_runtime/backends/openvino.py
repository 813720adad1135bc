"""OpenVINO on CPU; the only file of the runtime that imports openvino."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import openvino as ov

from icgan_runtime.backends.base import Array, ClosesOnExit, check_feeds, check_finite
from icgan_runtime.bundle.manifest import TensorSpec
from icgan_runtime.cpus import default_threads
from icgan_runtime.errors import BackendError, BundleError

# Up to this size a generator is compiled for one row, too: 40 MB for the demo's.
ONE_ROW_BYTES = 64 << 20


class OpenVinoSession(ClosesOnExit):
    """A session on an OpenVINO compiled model."""

    def __init__(
        self, model: bytes, file: str, backend: str = "openvino", threads: int = 0, one_row: bool = False
    ) -> None:
        """Load `model`, the bytes of `file`; `threads` 0 is one per core that this process may use.

        `openvino` keeps float32, as the exporter decided. `openvino-bf16` computes in bfloat16 where the CPU
        has instructions for it (AMX, AVX512-BF16), and in float32 elsewhere. With `one_row` a small float32
        graph has a second form, for one row: a generator's takes three quarters of the time.
        """
        self.name = f"{backend} {file}"
        self.backend, self.provider = backend, "CPU"
        hint = "bf16" if backend == "openvino-bf16" else "f32"
        settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if wanted := threads or default_threads():
            settings["INFERENCE_NUM_THREADS"] = wanted
        try:
            core = ov.Core()
            graph = core.read_model(io.BytesIO(model))
            self._compiled = core.compile_model(graph, "CPU", settings)
            self._one = None
            # where bytes or bfloat16 are rounded on the way, two forms would not draw the same picture
            if one_row and backend == "openvino" and len(model) <= ONE_ROW_BYTES and not _is_quantised(graph):
                graph.reshape({port.get_any_name(): [1, *_rest(port)] for port in graph.inputs})
                self._one = core.compile_model(graph, "CPU", settings)
        except Exception as error:  # openvino raises plain RuntimeError
            raise BundleError(file, f"OpenVINO cannot load it ({_reason(error)})") from None
        self.inputs = tuple(_spec(port) for port in self._compiled.inputs)
        self.outputs = tuple(_spec(port) for port in self._compiled.outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        check_feeds(self.name, self.inputs, feeds)
        try:
            # a request of its own, for a request serves one thread at a time
            compiled = self._compiled
            if self._one is not None and all(len(array) == 1 for array in feeds.values()):
                compiled = self._one
            found = compiled.create_infer_request().infer(dict(feeds))
        except Exception as error:
            raise BackendError(f"{self.name}: {_reason(error)}") from None
        # copied, for the arrays lie in memory of the request
        outputs = {spec.name: np.array(found[index]) for index, spec in enumerate(self.outputs)}
        check_finite(self.name, outputs)
        return outputs

    def _release(self) -> None:
        del self._compiled, self._one


def _is_quantised(graph: ov.Model) -> bool:
    return any(node.get_type_name() == "FakeQuantize" for node in graph.get_ops())


def _rest(port: ov.Output) -> list[int]:
    """The sides behind the rows, which are all fixed."""
    return [side.get_length() for side in list(port.get_partial_shape())[1:]]


def _spec(port: ov.ConstOutput) -> TensorSpec:
    sides = port.get_partial_shape()
    shape = tuple("N" if side.is_dynamic else side.get_length() for side in sides)
    return TensorSpec(port.get_any_name(), port.get_element_type().to_dtype().name, shape)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[-300:]
