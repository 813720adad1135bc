"""TensorRT plans on an NVIDIA GPU; the only file of the runtime that imports tensorrt, tensorrt_rtx or cuda.

Everything a call needs exists before it: pinned host buffers, device buffers and scratch memory for the
largest batch, and for each batch size an execution context and its CUDA graph, made when that size is first
asked for. A call fills the pinned inputs and launches the graph (copies included); nothing is allocated on
the device.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart

from icgan_runtime.backends import dlpack
from icgan_runtime.backends.base import Array, ClosesOnExit, check_feeds, check_finite
from icgan_runtime.backends.trt_logger import quiet_logger
from icgan_runtime.bundle.manifest import TensorSpec
from icgan_runtime.errors import BackendError, BundleError

DTYPES = {"FLOAT": "float32", "UINT8": "uint8", "INT64": "int64"}


@dataclass(frozen=True)
class Machine:
    """What a plan is bound to."""

    capability: str  # "sm90"
    libraries: Mapping[str, str]  # the importable ones of tensorrt and tensorrt_rtx -> version


@dataclass(frozen=True)
class Buffer:
    """One tensor of a graph: the same bytes pinned on the host and on the device, for the largest batch."""

    spec: TensorSpec
    host: Array
    host_address: int
    device: int
    row_bytes: int


def machine() -> Machine:
    """The GPU of this machine and the libraries that can run plans. Raises BackendError without a GPU."""
    attribute = cudart.cudaDeviceAttr
    major, minor = (
        _call(cudart.cudaDeviceGetAttribute, name, 0)
        for name in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
    )
    libraries = {}
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            libraries[name] = importlib.import_module(name).__version__
        except ImportError:
            continue
    return Machine(f"sm{major}{minor}", libraries)


class TrtSession(ClosesOnExit):
    """A session on a deserialised plan. Calls from several threads take turns."""

    def __init__(self, plan: bytes, file: str, library: str = "tensorrt") -> None:
        """Load `plan`, the bytes of `file`, with `tensorrt` or `tensorrt_rtx`. Raises BundleError."""
        self.name = f"{library} {file}"
        self._trt = importlib.import_module(library)
        self.backend, self.provider = "tensorrt", f"{library} {self._trt.__version__}"
        self._lock = threading.Lock()
        logger = quiet_logger(self._trt)
        self._runtime = self._trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BundleError(file, f"{library} {self._trt.__version__} cannot load it: {logger.last_error}")
        self._settings = self._context_settings()
        self._stream = _call(cudart.cudaStreamCreateWithFlags, cudart.cudaStreamNonBlocking)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._inputs = [name for name in names if modes[name] == self._trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in self._inputs]
        self._batches = [
            tuple(shape[0] for shape in self._engine.get_tensor_profile_shape(self._inputs[0], index))
            for index in range(self._engine.num_optimization_profiles)
        ]
        self._largest: int = max(largest for _, _, largest in self._batches)
        self._buffers = {name: self._buffer(name) for name in names}
        self.inputs = tuple(self._buffers[name].spec for name in self._inputs)
        self.outputs = tuple(self._buffers[name].spec for name in self._outputs)
        self._scratch_bytes = int(self._engine.device_memory_size_v2)
        self._scratch = int(_call(cudart.cudaMalloc, max(1, self._scratch_bytes)))
        self._contexts: dict[int, Any] = {}  # batch -> the context that runs it and nothing else
        self._graphs: dict[tuple[int, bool], Any] = {}  # (batch, with the copies from and to the host)

    @property
    def max_batch(self) -> int:
        return self._largest

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        check_feeds(self.name, self.inputs, feeds)
        count = self._count(len(next(iter(feeds.values()))))
        with self._lock:
            for name, array in feeds.items():
                self._buffers[name].host[:count] = array
            self._launch(count, copies=True)
            outputs = {name: self._buffers[name].host[:count].copy() for name in self._outputs}
        check_finite(self.name, outputs)
        return outputs

    def run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, dlpack.Tensor]:
        """As `run`, for arrays that lie on the GPU: anything with `__dlpack__`, C-contiguous.

        Waits for the work that produced them, and is done when it returns. What it returns stays on the GPU
        (`torch.from_dlpack(tensor)`) and is overwritten by the session's next run. Floats are not searched
        for NaN. Raises BackendError for what does not fit `inputs`.
        """
        stream = int(self._stream)
        with self._lock:  # whose stream waits for the arrays: not while another call records it
            held = {
                name: dlpack.view(f"{self.name}: {name}", value, dlpack.CUDA, stream)
                for name, value in feeds.items()
            }
            check_feeds(self.name, self.inputs, {name: _shadow(view) for name, view in held.items()})
            count = self._count(next(iter(held.values())).shape[0])
            for name, view in held.items():
                buffer = self._buffers[name]
                self._copy(buffer.device, view.address, count * buffer.row_bytes, "DeviceToDevice")
            self._launch(count, copies=False)
        return {name: self._device_tensor(self._buffers[name], count) for name in self._outputs}

    def _release(self) -> None:
        for graph in self._graphs.values():
            cudart.cudaGraphExecDestroy(graph)
        self._graphs, self._contexts = {}, {}
        for buffer in self._buffers.values():
            cudart.cudaFree(buffer.device)
            cudart.cudaFreeHost(buffer.host_address)
        self._buffers = {}
        cudart.cudaFree(self._scratch)
        cudart.cudaStreamDestroy(self._stream)
        del self._settings, self._engine, self._runtime

    def _count(self, rows: int) -> int:
        if not 1 <= rows <= self.max_batch:
            raise BackendError(f"{self.name}: {rows} rows, the plan takes 1..{self.max_batch}")
        return rows

    def _launch(self, count: int, copies: bool) -> None:
        if (count, copies) not in self._graphs:
            self._graphs[count, copies] = self._capture(count, copies)
        _call(cudart.cudaGraphLaunch, self._graphs[count, copies], self._stream)
        _call(cudart.cudaStreamSynchronize, self._stream)

    def _capture(self, count: int, copies: bool) -> Any:
        """The work of one call as a CUDA graph. Run once before: TensorRT sets itself up on first use."""
        context = self._context(count)
        self._enqueue(context, count, copies)
        _call(cudart.cudaStreamSynchronize, self._stream)
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call(cudart.cudaStreamBeginCapture, self._stream, mode)
        try:
            self._enqueue(context, count, copies)
        finally:
            graph = _call(cudart.cudaStreamEndCapture, self._stream)
        executable = _call(cudart.cudaGraphInstantiate, graph, 0)
        _call(cudart.cudaGraphDestroy, graph)
        return executable

    def _enqueue(self, context: Any, count: int, copies: bool) -> None:
        for name in self._inputs if copies else ():
            buffer = self._buffers[name]
            self._copy(buffer.device, buffer.host_address, count * buffer.row_bytes, "HostToDevice")
        if not context.execute_async_v3(int(self._stream)):
            raise BackendError(f"{self.name}: TensorRT refused to run {count} rows")
        for name in self._outputs if copies else ():
            buffer = self._buffers[name]
            self._copy(buffer.host_address, buffer.device, count * buffer.row_bytes, "DeviceToHost")

    def _context(self, count: int) -> Any:
        """The context of `count` rows, by the first profile that takes them: latency's before throughput's.

        A captured graph holds while its context stays as it was, so each batch size has a context of its own.
        They compute in the same scratch memory, for they take turns.
        """
        if count not in self._contexts:
            index = next(i for i, (least, _, most) in enumerate(self._batches) if least <= count <= most)
            context = self._engine.create_execution_context(self._settings)
            context.set_device_memory(self._scratch, self._scratch_bytes)
            context.set_optimization_profile_async(index, int(self._stream))
            for name, buffer in self._buffers.items():
                context.set_tensor_address(name, buffer.device)
            for name in self._inputs:
                context.set_input_shape(name, (count, *self._row(name)))
            self._contexts[count] = context
        return self._contexts[count]

    def _context_settings(self) -> Any:
        """What every context is made with: memory of ours, and of TensorRT-RTX the kernels of its batch size.

        By default that library starts with kernels for any size and compiles those beside the first runs; a
        captured graph would keep the slow ones.
        """
        ours = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._trt.__name__ != "tensorrt_rtx":
            return ours
        settings = self._engine.create_runtime_config()
        settings.set_execution_context_allocation_strategy(ours)
        eager = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        settings.dynamic_shapes_kernel_specialization_strategy = eager
        return settings

    def _buffer(self, name: str) -> Buffer:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise BackendError(f"{self.name}: {name} is {kind}, expected one of {', '.join(DTYPES)}")
        dtype = np.dtype(DTYPES[kind])
        row = self._row(name)
        row_bytes = math.prod(row) * dtype.itemsize
        size = self.max_batch * row_bytes
        address = int(_call(cudart.cudaHostAlloc, size, cudart.cudaHostAllocDefault))
        pinned = (ctypes.c_uint8 * size).from_address(address)
        host = np.ctypeslib.as_array(pinned).view(dtype).reshape(self.max_batch, *row)
        device = int(_call(cudart.cudaMalloc, size))
        return Buffer(TensorSpec(name, dtype.name, ("N", *row)), host, address, device, row_bytes)

    def _row(self, name: str) -> tuple[int, ...]:
        return tuple(self._engine.get_tensor_shape(name))[1:]

    def _copy(self, target: int, source: int, size: int, direction: str) -> None:
        kind = getattr(cudart.cudaMemcpyKind, f"cudaMemcpy{direction}")
        _call(cudart.cudaMemcpyAsync, target, source, size, kind, self._stream)

    def _device_tensor(self, buffer: Buffer, count: int) -> dlpack.Tensor:
        shape = (count, *buffer.host.shape[1:])
        return dlpack.Tensor(buffer.device, shape, buffer.host.dtype, (dlpack.CUDA, 0), owner=self)


def _shadow(view: dlpack.View) -> Array:
    """An array of the same dtype and shape that holds no memory, to be checked like any other."""
    return np.broadcast_to(np.zeros((), view.dtype), view.shape)


def _call(function: Any, *arguments: Any) -> Any:
    """A CUDA call's result. Raises BackendError with CUDA's own name for what went wrong."""
    status, *values = function(*arguments)
    if status != cudart.cudaError_t.cudaSuccess:
        _, text = cudart.cudaGetErrorString(status)
        reason = text.decode() if isinstance(text, bytes) else str(text)
        raise BackendError(f"CUDA: {function.__name__} failed: {reason}")
    return values[0] if values else None
