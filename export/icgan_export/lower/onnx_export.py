"""torch module -> checked ONNX model with named tensors and a named dynamic batch axis."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from icgan_export.errors import ExportError

# The dynamo exporter's native opset; TensorRT 10 and 11, OpenVINO and ONNX Runtime Web all read it.
OPSET = 18
BATCH_AXIS = "N"  # as docs/format.md and the manifest name it
TRACED_BATCH = 2  # torch.export specialises sizes 0 and 1
Step = Callable[[str], None]  # called with a line of progress
MAX_PROTOBUF_BYTES = (1 << 31) - 1  # a single .onnx file cannot be larger


def say_nothing(text: str) -> None:
    """A `Step` for callers that show no progress."""


def export_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    metadata: Mapping[str, str],
    step: Step = say_nothing,
    free: Mapping[int, str] = {},
) -> onnx.ModelProto:
    """Trace `module(*inputs)` and return a model that passed the checker and strict shape inference.

    `inputs` maps graph input names to example tensors whose first axis is the batch, of TRACED_BATCH rows;
    `free` names further axes of them that may have any size.
    `step` gets the number of operators before and after constants are folded and dead code is dropped.
    """
    axes = {axis: torch.export.Dim(name, min=1) for axis, name in {0: BATCH_AXIS, **free}.items()}
    with _quiet(), _no_collection(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple(axes for _ in inputs),
            verbose=False,
            optimize=False,  # below, to count what it leaves
        )
        if program is None:  # only without dynamo
            raise RuntimeError("torch.onnx.export returned no program")
        traced = sum(1 for _ in program.model.graph)
        program.optimize()
        model = finish(program.model_proto, metadata)
    step(f"{outputs[0]}: {traced} operators traced, {len(model.graph.node)} after folding constants")
    return model


def finish(model: onnx.ModelProto, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Drop what only the tracer needs and set the metadata, in place; returned once it is checked.

    The check includes strict shape inference, and raises onnx's own errors. Raises ExportError for a model
    too large for one file.
    """
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of the machine that exported
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.graph.metadata_props[:]
    set_metadata(model, metadata)
    if model.ByteSize() > MAX_PROTOBUF_BYTES:
        raise ExportError(f"the graph has {model.ByteSize()} bytes; one ONNX file holds {MAX_PROTOBUF_BYTES}")
    onnx.checker.check_model(model, full_check=True)
    return model


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Make `metadata` all that the file says about itself."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    model.producer_name, model.producer_version = "icgan", metadata.get("icgan.version", "")


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write one self-contained .onnx file. The same model gives the same bytes."""
    path.write_bytes(model.SerializeToString(deterministic=True))


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each operator, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Tracing makes a million small objects that stay, which the collector would search again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports every absent torchvision operator; none of that is about the model."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
