"""ONNX Runtime Web: ONNX files whose operators a WebGPU shader can bind; run here by ONNX Runtime itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto

from icgan_export.edge.ort_target import SNIPPET, open_graph
from icgan_export.edge.target import EdgeTarget, ending
from icgan_export.errors import ExportError

STORAGE_BUFFERS = 8  # that WebGPU promises a shader


def convert(model: onnx.ModelProto, stem: Path, precision: str = "fp32") -> Sequence[Path]:
    """`stem`.onnx, refused where an operator needs more storage buffers than every adapter has."""
    settings = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT64}
    for node in model.graph.node:
        bound = {name for name in (*node.input, *node.output) if name and name not in settings}
        if len(bound) > STORAGE_BUFFERS:
            raise ExportError(
                f"web: {node.op_type} {node.name} of {stem.name} binds {len(bound)} tensors, WebGPU promises "
                f"{STORAGE_BUFFERS}: export the bundle again"
            )
    path = ending(stem, ".onnx")
    onnx.save(model, path)
    return [path]


TARGET = EdgeTarget(
    "web", "onnxruntime", f"onnxruntime {ort.__version__}", convert, open_graph, snippet=SNIPPET
)
