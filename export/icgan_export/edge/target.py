"""What every edge target offers: how a graph is converted, and how the result is run to compare it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from icgan_export.errors import ExportError
from icgan_export.rewrite.choice import Target
from icgan_runtime.errors import MissingExtraError

Arrays = Mapping[str, NDArray[Any]]
Runner = Callable[[Arrays], dict[str, NDArray[Any]]]

TARGETS = ("coreml", "executorch", "litert", "mnn", "ncnn", "openvino", "ort", "web")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, eq=False)
class TorchGraph:
    """A network for converters that read torch modules: float32 in and out."""

    module: nn.Module
    feeds: Arrays  # examples of its inputs, in their order
    output: str


@dataclass(frozen=True)
class EdgeTarget:
    """One runtime: its converter, and a runner of what that wrote on the CPU."""

    name: str
    form: Target  # whose forms of a block are the fastest there
    version: str
    # Write a graph, an onnx.ModelProto or a TorchGraph, as `stem` with the endings of the format, at a
    # precision; returns the files.
    convert: Callable[[Any, Path, str], Sequence[Path]]
    open: Callable[[Sequence[Path], int], Runner] | None  # on that many threads; None: not run here
    # Operators of what was written; ExportError where it is not the graph. Of a target that is not run.
    inspect: Callable[[Sequence[Path], Any], Mapping[str, int]] | None = None
    lowers: bool = False  # the converter itself makes FP16 and INT8 of float32; False: the bundle's graphs do
    batch: int | None = None  # rows of a run; None: any number
    bytes_inside: bool = True  # False: the runtime has no bytes, pictures are float32 at both ends
    from_torch: bool = False  # the converter reads a module, not ONNX
    left_behind: Mapping[str, str] | None = None  # role -> why it has no place in this runtime
    no_precision: Mapping[str, str] | None = None  # precision -> why it is not written
    snippet: str = ""  # a Python program with {encoder} and {generator}, the files of each


def ending(stem: Path, suffix: str) -> Path:
    """`stem` with an ending more: a precision in its name, "generator.fp16", stays."""
    return stem.with_name(stem.name + suffix)


def find_target(name: str) -> EdgeTarget:
    """The target of that name. Raises MissingExtraError where its library is not installed."""
    if name not in TARGETS:
        raise ExportError(f"--target {name}: choose from {', '.join(TARGETS)}")
    try:
        found: EdgeTarget = importlib.import_module(f"icgan_export.edge.{name}_target").TARGET
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("icgan"):
            raise
        raise MissingExtraError(error.name, "edge") from None
    return found


def in_rows(run: Runner, feeds: Arrays, batch: int | None) -> dict[str, NDArray[Any]]:
    """Run `feeds`, `batch` rows at a time."""
    if batch is None:
        return run(feeds)
    count = len(next(iter(feeds.values())))
    parts = [
        run({name: array[at : at + batch] for name, array in feeds.items()}) for at in range(0, count, batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
