"""MNN. Its converter runs in a process of its own, where it may write and end as it likes.

The command that the package installs asks pip for itself on the way; its function does not.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import MNN
import MNN.expr as expr
import MNN.nn as nn
import numpy as np
import onnx
from numpy.typing import NDArray

from icgan_export.edge.target import Arrays, EdgeTarget, Runner, ending
from icgan_export.errors import ExportError

CONVERT = "import MNN, sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
KINDS = {np.dtype(np.float32): expr.float, np.dtype(np.uint8): expr.uint8, np.dtype(np.int64): expr.int}
# Weights: stored as halves, or as bytes with a scale for each channel; what is computed stays float32.
LOWER = {"fp32": (), "fp16": ("--fp16",), "int8": ("--weightQuantBits", "8")}
SNIPPET = """\
import MNN.expr as F
import MNN.nn as nn
import numpy as np

generator = nn.load_module_from_file("{generator}", {inputs}, ["image"])
feeds = [F.const(np.zeros(shape, np.float32).tolist(), shape, F.NCHW) for shape in {shapes}]
image = np.array(generator.forward(feeds)[0].read())
print(image.dtype, image.shape)
"""


def convert(model: onnx.ModelProto, stem: Path, precision: str = "fp32") -> Sequence[Path]:
    """`stem`.mnn, and `stem`.names: its inputs and outputs in their order."""
    source, out = ending(stem, ".onnx"), ending(stem, ".mnn")
    onnx.save(model, source)
    command = [sys.executable, "-c", CONVERT, "-f", "ONNX", "--modelFile", str(source)]
    done = subprocess.run(
        [*command, "--MNNModel", str(out), "--bizCode", "icgan", *LOWER[precision]],
        capture_output=True,
        text=True,
    )
    source.unlink()
    if done.returncode or not out.exists():
        raise ExportError(f"mnn: {stem.name} is not converted (status {done.returncode})")
    names = ending(stem, ".names")
    inputs = " ".join(value.name for value in model.graph.input)
    names.write_text(f"{inputs}\n{' '.join(value.name for value in model.graph.output)}\n")
    return [out, names]


def open_graph(files: Sequence[Path], threads: int = 1) -> Runner:
    """A module in float32."""
    inputs, outputs = (line.split() for line in files[1].read_text().splitlines())
    manager = nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "high"},))
    module = nn.load_module_from_file(str(files[0]), inputs, outputs, runtime_manager=manager)

    def run(feeds: Arrays) -> dict[str, NDArray[Any]]:
        placed = []
        for name in inputs:
            array = feeds[name]
            kind = KINDS[array.dtype]
            held = array.astype(np.int32) if kind == expr.int else array
            variable = expr.placeholder(list(held.shape), expr.NCHW, kind)
            variable.write(np.ascontiguousarray(held))
            placed.append(variable)
        return {
            name: np.array(found.read()) for name, found in zip(outputs, module.forward(placed), strict=True)
        }

    return run


TARGET = EdgeTarget("mnn", "mnn", f"MNN {MNN.version()}", convert, open_graph, lowers=True, snippet=SNIPPET)
