"""LiteRT (TensorFlow Lite), by litert-torch: its converter reads torch modules, so it needs the run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import litert_torch
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from icgan_export.edge.target import Arrays, EdgeTarget, Runner, TorchGraph

SNIPPET = """\
import numpy as np
from ai_edge_litert.interpreter import Interpreter

generator = Interpreter("{generator}").get_signature_runner()
feeds = {{f"args_{{index}}": np.zeros(shape, np.float32) for index, shape in enumerate({shapes})}}
image = generator(**feeds)["output_0"]  # [1, 3, R, R] in [-1, 1]
print(image.dtype, image.shape)
"""


def convert(graph: TorchGraph, stem: Path) -> Sequence[Path]:
    """`stem`.tflite for one picture, and `stem`.names: its inputs and its output in their order."""
    rows = tuple(torch.from_numpy(array[:1]) for array in graph.feeds.values())
    files = [stem.with_suffix(".tflite"), stem.with_suffix(".names")]
    litert_torch.convert(graph.module, rows).export(str(files[0]))
    files[1].write_text(f"{' '.join(graph.feeds)}\n{graph.output}\n")
    return files


def open_graph(files: Sequence[Path]) -> Runner:
    """An interpreter on one thread."""
    inputs, (output,) = (line.split() for line in files[1].read_text().splitlines())
    runner = Interpreter(model_path=str(files[0]), num_threads=1).get_signature_runner()

    def run(feeds: Arrays) -> dict[str, NDArray[Any]]:
        found = runner(**{f"args_{index}": feeds[name] for index, name in enumerate(inputs)})
        return {output: found["output_0"]}

    return run


TARGET = EdgeTarget(
    "litert",
    "litert",
    f"litert-torch {version('litert-torch')}, ai-edge-litert {version('ai-edge-litert')}",
    convert,
    open_graph,
    batch=1,
    bytes_inside=False,
    from_torch=True,
    left_behind={"lookup": "not converted: search bank/embeddings.npy by inner products"},
    snippet=SNIPPET,
)
