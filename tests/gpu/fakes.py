# ruff: noqa: N802, N815 - the names are NVIDIA's
"""CUDA and TensorRT as far as our code uses them, on the host: device memory is host memory, plans are ONNX.

For running the session, its tests and the benchmark through where there is no GPU: names, order of calls,
lifetimes and arithmetic of addresses are real, speed and kernels are not.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from icgan_export.lower.half import rounded
from icgan_runtime import backends
from icgan_runtime.backends import dlpack
from icgan_runtime.backends.ort import OrtSession

Work = Callable[[], object]
STREAM = 7  # the first one's handle
USER_MANAGED, EAGER = "user managed", "eager"


class Cuda:
    """`cuda.bindings.runtime`: every function answers (status, values...), a stream runs at once."""

    class cudaError_t(IntEnum):  # noqa: N801
        cudaSuccess = 0
        cudaErrorInvalidValue = 1

    cudaMemcpyKind = Enum(
        "cudaMemcpyKind", "cudaMemcpyHostToDevice cudaMemcpyDeviceToHost cudaMemcpyDeviceToDevice"
    )
    cudaStreamCaptureMode = Enum("cudaStreamCaptureMode", "cudaStreamCaptureModeThreadLocal")
    cudaDeviceAttr = Enum(
        "cudaDeviceAttr", "cudaDevAttrComputeCapabilityMajor cudaDevAttrComputeCapabilityMinor"
    )
    cudaStreamNonBlocking, cudaHostAllocDefault = 1, 0

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.pinned: set[int] = set()  # what of it is the host's
        self.streams: set[int] = set()
        self.graphs = 0  # that can be launched
        self.captured: list[Work] | None = None
        self.allocations = self.launches = 0

    def perform(self, work: Work) -> None:
        """Now, or into the graph that is being captured."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def held(self, address: int, size: int, pinned: bool = False) -> bool:
        """Whether these bytes are allocated on the device, or pinned on the host."""
        return any(
            start <= address and address + size <= start + len(block)
            for start, block in self.memory.items()
            if (start in self.pinned) == pinned
        )

    def cudaDeviceGetAttribute(self, name: Any, device: int) -> tuple[int, int]:
        return 0, 9 if name.name.endswith("Major") else 0

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, b"invalid argument"

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        stream = STREAM + len(self.streams)
        self.streams.add(stream)
        return 0 if flags == self.cudaStreamNonBlocking else 1, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        self.streams.remove(stream)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (0 if self.captured is None and stream in self.streams else 1,)  # not allowed while capturing

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        self.allocations += 1
        block = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        _, address = self.cudaMalloc(size)
        self.pinned.add(address)
        return flags, address

    def cudaFree(self, address: int) -> tuple[int]:
        assert address not in self.pinned
        del self.memory[address]
        return (0,)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        self.pinned.remove(address)
        del self.memory[address]
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> tuple[int]:
        origin, _, goal = kind.name.removeprefix("cudaMemcpy").partition("To")
        known = origin == goal == "Device"  # what comes from outside lies in memory of its own
        if (
            stream not in self.streams
            or not self.held(target, size, pinned=goal == "Host")
            or not (known or self.held(source, size, pinned=origin == "Host"))
        ):
            return (1,)
        self.perform(lambda: ctypes.memmove(target, source, size))
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[int]:
        self.captured = []
        right = mode is self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        return (0 if right and stream in self.streams else 1,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, list[Work]]:
        graph, self.captured = self.captured or [], None
        return 0 if stream in self.streams else 1, graph

    def cudaGraphInstantiate(self, graph: list[Work], flags: int) -> tuple[int, list[Work]]:
        self.graphs += 1
        return flags, list(graph)

    def cudaGraphDestroy(self, graph: list[Work]) -> tuple[int]:
        graph.clear()
        return (0,)

    def cudaGraphExecDestroy(self, graph: list[Work]) -> tuple[int]:
        self.graphs -= 1
        return (0,)

    def cudaGraphLaunch(self, graph: list[Work], stream: int) -> tuple[int]:
        self.launches += 1
        for work in graph:
            work()
        return (0 if graph and stream in self.streams else 1,)


@dataclass
class RuntimeConfig:
    """How TensorRT-RTX is to make a context."""

    allocation: str = "static"
    dynamic_shapes_kernel_specialization_strategy: str = "lazy"

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.allocation = strategy


class Engine:
    """A plan of `TensorRt.Builder`: profiles and an ONNX graph, run by ONNX Runtime."""

    def __init__(self, cuda: Cuda, plan: bytes, rtx: bool = False) -> None:
        self.rtx = rtx
        head, _, graph = plan.partition(b"\n")
        self.cuda, self.profiles = cuda, json.loads(head)["profiles"]
        self.contexts: list[Context] = []
        model = rounded(onnx.load_from_string(graph))
        self.session = OrtSession(model.SerializeToString(), "fake.plan", finite=False)
        self.specs = {spec.name: spec for spec in (*self.session.inputs, *self.session.outputs)}
        self.names = list(self.specs)
        self.num_io_tensors, self.num_optimization_profiles = len(self.names), len(self.profiles)
        self.device_memory_size_v2 = 1 << 10

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in [spec.name for spec in self.session.inputs] else "out"

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(
            name={"float32": "FLOAT"}.get(self.specs[name].dtype, self.specs[name].dtype.upper())
        )

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.row(name))

    def row(self, name: str) -> tuple[int, ...]:
        return tuple(int(side) for side in self.specs[name].shape[1:])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(batch, *self.row(name)) for batch in self.profiles[index]]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, how: str | RuntimeConfig) -> Context:
        assert how == (RuntimeConfig(USER_MANAGED, EAGER) if self.rtx else USER_MANAGED)
        return Context(self)

    def create_engine_inspector(self) -> SimpleNamespace:
        return SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": []}))


class Context:
    """Reads and writes the addresses it was given, as a captured graph does on every launch.

    NVIDIA leaves undefined what a graph does whose context was changed since; here it is refused.
    """

    def __init__(self, engine: Engine) -> None:
        engine.contexts.append(self)
        self.engine, self.addresses, self.batch, self.profile = engine, dict[str, int](), 0, -1
        self.scratch = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.scratch = memory

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream in self.engine.cuda.streams
        self.profile = index
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profiles[self.profile]
        self.batch = shape[0]
        return bool(least <= self.batch <= most)

    def execute_async_v3(self, stream: int) -> bool:
        batch = self.batch
        assert stream in self.engine.cuda.streams

        def run() -> None:
            assert batch == self.batch
            assert self.engine.cuda.held(self.scratch, self.engine.device_memory_size_v2)
            found = self.engine.session.run(
                {spec.name: self.array(spec.name, batch) for spec in self.engine.session.inputs}
            )
            for name, value in found.items():
                self.array(name, batch)[...] = value

        self.engine.cuda.perform(run)
        return True

    def array(self, name: str, batch: int) -> np.ndarray:
        shape = (batch, *self.engine.row(name))
        dtype = np.dtype(self.engine.specs[name].dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        assert self.engine.cuda.held(self.addresses[name], size)
        block = (ctypes.c_uint8 * size).from_address(self.addresses[name])
        return np.ctypeslib.as_array(block).view(dtype).reshape(shape)


@contextlib.contextmanager
def machine_with_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    """A machine with a GPU of compute capability 9.0 and a TensorRT."""
    cuda = Cuda()
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    for name, module in {
        "cuda": ModuleType("cuda"),
        "cuda.bindings": bindings,
        "cuda.bindings.runtime": cuda,
        "tensorrt": fake_tensorrt(cuda),
        "tensorrt_rtx": None,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    _forget_session()
    monkeypatch.setattr(dlpack, "CUDA", dlpack.CPU)
    yield cuda
    _forget_session()


def _forget_session() -> None:
    """The next import of the session takes the bindings that are there then."""
    sys.modules.pop("icgan_runtime.backends.trt", None)
    vars(backends).pop("trt", None)


def fake_tensorrt(cuda: Cuda, name: str = "tensorrt") -> Any:
    """The module `tensorrt`, or `tensorrt_rtx`: builder, parser and runtime."""
    trt: Any = ModuleType(name)
    trt.__version__ = "0.0.fake"

    class Network:
        num_layers = 0

        def __init__(self) -> None:
            self.model = onnx.ModelProto()

        @property
        def num_inputs(self) -> int:
            return len(self.model.graph.input)

        def get_input(self, index: int) -> SimpleNamespace:
            value = self.model.graph.input[index]
            sides = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
            return SimpleNamespace(name=value.name, shape=tuple(sides))

    class Parser:
        num_errors = 0

        def __init__(self, network: Network, logger: Any) -> None:
            self.network = network

        def parse(self, graph: bytes) -> bool:
            self.network.model = onnx.load_from_string(graph)
            return True

    class Profile:
        def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
            self.batches = [shape[0] for shape in (least, best, most)]

    class Config:
        def __init__(self) -> None:
            self.profiles: list[Profile] = []
            self.flags = {"TF32"}  # as TensorRT starts

        def add_optimization_profile(self, profile: Profile) -> int:
            self.profiles.append(profile)
            return len(self.profiles) - 1

        def create_timing_cache(self, data: bytes) -> bytes:
            return data

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            return True

        def get_timing_cache(self) -> SimpleNamespace:
            return SimpleNamespace(serialize=lambda: b"timed")

        def set_flag(self, flag: str) -> None:
            self.flags.add(flag)

        def clear_flag(self, flag: str) -> None:
            self.flags.discard(flag)

    class Builder:
        def __init__(self, logger: Any) -> None:
            pass

        def create_network(self, flags: int) -> Network:
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes:
            profiles = [profile.batches for profile in config.profiles]
            head = json.dumps({"profiles": profiles, "flags": sorted(config.flags)})
            return head.encode() + b"\n" + network.model.SerializeToString()

    living = weakref.WeakSet[Any]()

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            # the logger of the first one, as long as it lives
            self.logger = next((other.logger for other in living), logger)
            living.add(self)

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            brings_code = "VERSION_COMPATIBLE" in json.loads(plan.partition(b"\n")[0])["flags"]
            if brings_code and not self.engine_host_code_allowed:
                self.logger.log(1, "the plan brings code")
                return None
            return Engine(cuda, plan, rtx=name == "tensorrt_rtx")

    trt.Builder, trt.OnnxParser, trt.Runtime = Builder, Parser, Runtime
    flags = ("TF32", "VERSION_COMPATIBLE")
    trt.BuilderFlag = SimpleNamespace(**{flag: flag for flag in flags})
    trt.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=USER_MANAGED)
    if name == "tensorrt_rtx":
        trt.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER=EAGER)
    trt.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    trt.ILogger = type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1)})
    trt.IProgressMonitor = type("IProgressMonitor", (), {})
    trt.ProfilingVerbosity = SimpleNamespace(DETAILED=2)
    trt.LayerInformationFormat = SimpleNamespace(JSON=1)
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    kinds = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "DEQUANTIZE")
    trt.LayerType = SimpleNamespace(**{kind: kind for kind in kinds})
    return trt
