"""ONNX Runtime Mobile: its own format, which a reduced build reads without a parser of ONNX."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from icgan_export.edge.target import Arrays, EdgeTarget, Runner, ending
from icgan_export.errors import ExportError

SNIPPET = """\
import numpy as np
import onnxruntime as ort

generator = ort.InferenceSession("{generator}")
feeds = dict(zip({inputs}, [np.zeros(shape, np.float32) for shape in {shapes}]))
(image,) = generator.run(["image"], feeds)
print(image.dtype, image.shape)
"""


def convert(model: onnx.ModelProto, stem: Path, precision: str = "fp32") -> Sequence[Path]:
    """`stem`.ort, optimised for any processor."""
    source = ending(stem, ".onnx")
    onnx.save(model, source)
    command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(source)]
    done = subprocess.run([*command, "--optimization_style", "Fixed"], capture_output=True, text=True)
    source.unlink()
    for config in stem.parent.glob(f"{stem.name}*.config"):
        config.unlink()
    if done.returncode:
        raise ExportError(f"ort: {stem.name} is not converted: {done.stderr.strip().splitlines()[-1]}")
    return [ending(stem, ".ort")]


def open_graph(files: Sequence[Path], threads: int = 1) -> Runner:
    """A session on the processor."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(files[0], options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Arrays) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


TARGET = EdgeTarget(
    "ort", "onnxruntime", f"onnxruntime {ort.__version__}", convert, open_graph, snippet=SNIPPET
)
