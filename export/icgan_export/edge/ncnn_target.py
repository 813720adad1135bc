"""ncnn, by its converter pnnx. It has no bytes and no batch: float32 pictures, one at a time."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import onnx
import pnnx
from numpy.typing import NDArray

from icgan_export.edge.target import Arrays, EdgeTarget, Runner, ending
from icgan_export.errors import ExportError

SNIPPET = """\
import ncnn
import numpy as np

net = ncnn.Net()
net.load_param("{generator}")
net.load_model("{generator}".replace(".param", ".bin"))
extractor = net.create_extractor()
for index, (_, *shape) in enumerate({shapes}):
    extractor.input(f"in{{index}}", ncnn.Mat(np.zeros(shape, np.float32)))
image = np.array(extractor.extract("out0")[1])  # [3, R, R] in [-1, 1]
print(image.dtype, image.shape)
"""


def convert(model: onnx.ModelProto, stem: Path, precision: str = "fp32") -> Sequence[Path]:
    """`stem`.param and `stem`.bin of one picture, and `stem`.names: its inputs and outputs in their order."""
    shapes = ",".join(
        "[" + ",".join(str(side.dim_value or 1) for side in value.type.tensor_type.shape.dim) + "]"
        for value in model.graph.input
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "graph.onnx")
        onnx.save(model, source)
        command = [pnnx.EXEC_PATH, source.name, f"inputshape={shapes}", f"fp16={int(precision == 'fp16')}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        made = [Path(folder, f"graph.ncnn.{ending}") for ending in ("param", "bin")]
        if done.returncode or not all(path.exists() for path in made):
            raise ExportError(f"ncnn: {stem.name} is not converted (status {done.returncode})")
        files = [ending(stem, suffix) for suffix in (".param", ".bin", ".names")]
        for path, target in zip(made, files[:2], strict=True):
            target.write_bytes(path.read_bytes())
    inputs = " ".join(value.name for value in model.graph.input)
    files[2].write_text(f"{inputs}\n{' '.join(value.name for value in model.graph.output)}\n")
    return files


def open_graph(files: Sequence[Path], threads: int = 1) -> Runner:
    """A net in float32."""
    inputs, outputs = (line.split() for line in files[2].read_text().splitlines())
    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    if net.load_param(str(files[0])) or net.load_model(str(files[1])):
        raise ExportError(f"ncnn does not load {files[0].name}")

    def run(feeds: Arrays) -> dict[str, NDArray[Any]]:
        extractor = net.create_extractor()
        for index, name in enumerate(inputs):
            extractor.input(f"in{index}", ncnn.Mat(np.ascontiguousarray(feeds[name][0])).clone())
        return {
            name: np.array(extractor.extract(f"out{index}")[1])[None] for index, name in enumerate(outputs)
        }

    return run


TARGET = EdgeTarget(
    "ncnn",
    "ncnn",
    f"ncnn {version('ncnn')}",
    convert,
    open_graph,
    batch=1,
    lowers=True,
    bytes_inside=False,
    left_behind={"lookup": "ncnn has no TopK: search bank/embeddings.npy by inner products"},
    no_precision={"int8": "its quantiser is no part of the packages"},
    snippet=SNIPPET,
)
