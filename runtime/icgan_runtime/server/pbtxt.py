"""Triton model configurations as typed data, written as protobuf text.

Each class is one message of Triton's `model_config.proto` and each field keeps the name it has there, so one
small writer serves all of them: tuples are repeated fields, dicts are maps, `Word`s are enum values, and what
is zero or empty is left out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


class Word(str):
    """An enum value, written without quotes."""


CPU, GPU = Word("KIND_CPU"), Word("KIND_GPU")
UINT8, INT32, INT64 = Word("TYPE_UINT8"), Word("TYPE_INT32"), Word("TYPE_INT64")
FP32, BYTES = Word("TYPE_FP32"), Word("TYPE_STRING")


@dataclass(frozen=True)
class Shape:
    """A shape without the batch axis; empty means one scalar per row."""

    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tensor:
    """An input or output. `dims` leaves out the batch axis; -1 is any size."""

    name: str
    data_type: Word
    dims: tuple[int, ...]
    reshape: Shape | None = None  # what the backend sees in place of `dims`
    optional: bool = False


@dataclass(frozen=True)
class InstanceGroup:
    """How many copies of a model run, and on what.

    `profile` lists the optimisation profiles of a TensorRT plan that Triton chooses from for each batch.
    Where none is named it takes the first and no other.
    """

    kind: Word
    count: int = 1
    profile: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueuePolicy:
    """When a queue refuses. Not to be had for nothing: gate.py says what it costs."""

    max_queue_size: int


@dataclass(frozen=True)
class DynamicBatching:
    """Requests that wait together run together."""

    default_queue_policy: QueuePolicy | None = None
    max_queue_delay_microseconds: int = 0  # how long a lone request waits for company


@dataclass(frozen=True)
class WarmUpInput:
    """A recorded tensor: the file `warmup/<input_data_file>` of the model's folder."""

    data_type: Word
    dims: tuple[int, ...]
    input_data_file: str


@dataclass(frozen=True)
class WarmUp:
    """A request the server answers to itself before the model counts as ready."""

    name: str
    batch_size: int
    inputs: Mapping[str, WarmUpInput]


@dataclass(frozen=True)
class GraphShape:
    """Dims of one input of a CUDA graph."""

    dim: tuple[int, ...]


@dataclass(frozen=True)
class GraphSpec:
    """A CUDA graph to capture: without explicit ones only batch 1 and the maximum are."""

    batch_size: int
    input: Mapping[str, GraphShape]


@dataclass(frozen=True)
class Cuda:
    """CUDA graphs of a TensorRT plan."""

    graphs: bool = True
    output_copy_stream: bool = True
    graph_spec: tuple[GraphSpec, ...] = ()


@dataclass(frozen=True)
class Accelerator:
    """An execution provider of the onnxruntime backend."""

    name: str
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class ExecutionAccelerators:
    """Providers in order of preference; the CUDA provider always follows on a GPU instance."""

    gpu_execution_accelerator: tuple[Accelerator, ...]


@dataclass(frozen=True)
class Optimization:
    """What a GPU instance does beyond the plain graph."""

    cuda: Cuda | None = None
    execution_accelerators: ExecutionAccelerators | None = None


@dataclass(frozen=True)
class Step:
    """One model of an ensemble; the maps go from the model's tensor names to the ensemble's."""

    model_name: str
    model_version: int
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]


@dataclass(frozen=True)
class EnsembleScheduling:
    """The steps of an ensemble; Triton orders them by their tensors."""

    step: tuple[Step, ...]


@dataclass(frozen=True)
class Specific:
    """Serve these version numbers, whatever else the model's folder holds."""

    versions: tuple[int, ...]


@dataclass(frozen=True)
class VersionPolicy:
    """Which versions of a model are served."""

    specific: Specific


@dataclass(frozen=True)
class Parameter:
    """A free text value a python model or a backend reads."""

    string_value: str


@dataclass(frozen=True)
class ResponseCache:
    """Answers of this model are kept in the server's cache, by its version and its inputs."""

    enable: bool


@dataclass(frozen=True)
class ModelConfig:
    """One `config.pbtxt`."""

    name: str
    max_batch_size: int  # 0: the model sees whole requests, their first axis included
    input: tuple[Tensor, ...]
    output: tuple[Tensor, ...]
    backend: str = ""
    platform: str = ""
    default_model_filename: str = ""  # not with the python backend, which keeps its model.py here
    version_policy: VersionPolicy | None = None
    instance_group: tuple[InstanceGroup, ...] = ()
    dynamic_batching: DynamicBatching | None = None
    optimization: Optimization | None = None
    cc_model_filenames: Mapping[str, str] = dataclasses.field(default_factory=dict)  # "9.0" -> plan
    model_warmup: tuple[WarmUp, ...] = ()
    parameters: Mapping[str, Parameter] = dataclasses.field(default_factory=dict)
    ensemble_scheduling: EnsembleScheduling | None = None
    response_cache: ResponseCache | None = None


def to_pbtxt(config: ModelConfig) -> str:
    """`config` as protobuf text."""
    return "\n".join(_fields(config)) + "\n"


def _fields(message: Any) -> Iterator[str]:
    """The lines of a message's body."""
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from _map_entry(field.name, key, item)
        elif value in (None, "", 0, False, ()):  # protobuf's defaults
            continue
        elif isinstance(value, tuple) and dataclasses.is_dataclass(value[0]):
            for item in value:
                yield from _message(field.name, item)
        elif isinstance(value, tuple):
            yield f"{field.name}: [{', '.join(_scalar(item) for item in value)}]"
        elif dataclasses.is_dataclass(value):
            yield from _message(field.name, value)
        else:
            yield f"{field.name}: {_scalar(value)}"


def _message(name: str, value: Any) -> Iterator[str]:
    yield f"{name} {{"
    yield from (f"  {line}" for line in _fields(value))
    yield "}"


def _map_entry(name: str, key: str, value: Any) -> Iterator[str]:
    if dataclasses.is_dataclass(value):
        yield f"{name} {{"
        yield f"  key: {_scalar(key)}"
        yield from (f"  {line}" for line in _message("value", value))
        yield "}"
    else:
        yield f"{name} {{ key: {_scalar(key)} value: {_scalar(value)} }}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word):
        return value
    return json.dumps(value)  # quotes and escapes text the way protobuf reads it
