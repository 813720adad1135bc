"""ONNX Runtime: the default backend; the only file of the runtime that imports onnxruntime."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort

from icgan_runtime.backends.base import Array, ClosesOnExit, check_feeds, check_finite
from icgan_runtime.bundle.manifest import TensorSpec
from icgan_runtime.cpus import default_threads
from icgan_runtime.errors import BackendError, BundleError

_DTYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}
_QUIET = 3  # errors only: warnings about the machine are not the caller's business

PROVIDERS = {
    "ort-cpu": ["CPUExecutionProvider"],
    "ort-cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "ort-tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
# By default it shortens float32 to TF32, and the picture of a seed would not be that of other machines.
_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}


class OrtSession(ClosesOnExit):
    """A session on onnxruntime.InferenceSession."""

    def __init__(
        self,
        model: bytes,
        file: str,
        backend: str = "ort-cpu",
        threads: int = 0,
        finite: bool = True,
        spinning: bool = True,
    ) -> None:
        """Load `model`, the bytes of `file`.

        `threads` within an operator; 0 is one per core that this process may use. With `finite`,
        `run` raises NumericsError for NaN and infinity in an output. Without `spinning`, threads sleep while
        others finish an operator: up to half the processor time, for a few microseconds an operator.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or default_threads()
        options.log_severity_level = _QUIET
        # A session's idle threads would spin on, on the cores that the next session needs: at batch 8 the
        # chain took 34 ms with that and takes 23 ms without (docs/reports/log.md).
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Without VNNI the quick kernels add pairs of INT8 products in 16 bits, which overflow: an INT8 graph
        # would lose accuracy on older processors. Where there is VNNI this changes nothing.
        options.add_session_config_entry("session.x64quantprecision", "1")
        if backend != "ort-cpu":
            # CUDA's libraries from torch's or NVIDIA's packages, where they are; what it misses it prints
            with contextlib.redirect_stdout(sys.stderr):
                ort.preload_dlls()
        self.name = f"{backend} {file}"
        self._finite = finite
        providers = [(name, _OPTIONS.get(name, {})) for name in PROVIDERS[backend]]
        try:
            self._session = ort.InferenceSession(model, options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise BundleError(file, f"ONNX Runtime cannot load it ({_reason(error)})") from None
        held = self._session.get_providers()
        # where a provider's libraries or the GPU are missing it falls back without a word
        self.provider: str = held[0]
        self.backend = next(name for name, wanted in PROVIDERS.items() if wanted[0] == self.provider)
        self.device = "cuda" if "CUDAExecutionProvider" in held else "cpu"
        self.inputs = _specs(self._session.get_inputs())
        self.outputs = _specs(self._session.get_outputs())

    @property
    def metadata(self) -> dict[str, str]:
        """The graph's string metadata."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def require(self, backend: str) -> None:
        """Raise BackendError unless the session runs on the provider that `backend` stands for."""
        wanted = PROVIDERS[backend][0]
        if self.provider != wanted:
            raise BackendError(
                f"{self.name}: ONNX Runtime could not load {wanted}, it would run on {self.provider}: "
                "see to the GPU's driver, CUDA and cuDNN"
                + (", and a TensorRT that fits it, on LD_LIBRARY_PATH" if backend == "ort-tensorrt" else "")
            )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        check_feeds(self.name, self.inputs, feeds)
        names = [spec.name for spec in self.outputs]
        try:
            arrays = self._session.run(names, dict(feeds))
        except Exception as error:
            raise BackendError(f"{self.name}: {_reason(error)}") from None
        outputs = dict(zip(names, arrays, strict=True))
        if self._finite:
            check_finite(self.name, outputs)
        return outputs

    def run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """As `run`, with nothing copied: inputs and outputs lie on the device of the session's provider.

        Takes anything with `__dlpack__` that is C-contiguous and complete (synchronise the stream that made
        it), returns values that have it, too (`torch.from_dlpack(value)`), which belong to the caller. Floats
        are not searched for NaN. Raises BackendError for what does not fit `inputs`.
        """
        binding = self._session.io_binding()
        try:
            for name, value in feeds.items():
                binding.bind_ortvalue_input(name, ort.OrtValue.from_dlpack(value))
            for spec in self.outputs:
                binding.bind_output(spec.name, self.device)
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:
            raise BackendError(f"{self.name}: {_reason(error)}") from None
        return {spec.name: value for spec, value in zip(self.outputs, binding.get_outputs(), strict=True)}

    def _release(self) -> None:
        del self._session


def available_backends() -> list[str]:
    """Names in PROVIDERS whose first provider this onnxruntime has."""
    held = ort.get_available_providers()
    return [name for name, providers in PROVIDERS.items() if providers[0] in held]


def _specs(tensors: Sequence[ort.NodeArg]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(tensor.name, _DTYPES.get(tensor.type, tensor.type), tuple(tensor.shape))
        for tensor in tensors
    )


def _reason(error: Exception) -> str:
    """ONNX Runtime's own words on one line, without its error code and source location."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)[:300]
