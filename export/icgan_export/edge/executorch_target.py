"""ExecuTorch on XNNPACK: its exporter reads torch modules, so it needs the run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from numpy.typing import NDArray

from icgan_export.edge.target import Arrays, EdgeTarget, Runner, TorchGraph, ending

SNIPPET = """\
import torch
from executorch.runtime import Runtime

generator = Runtime.get().load_program("{generator}").load_method("forward")
image = generator.execute([torch.zeros(shape) for shape in {shapes}])[0].numpy()  # [1, 3, R, R] in [-1, 1]
print(image.dtype, image.shape)
"""


def convert(graph: TorchGraph, stem: Path, precision: str = "fp32") -> Sequence[Path]:
    """`stem`.pte for one picture, and `stem`.names: its inputs and its output in their order."""
    rows = tuple(torch.from_numpy(array[:1]) for array in graph.feeds.values())
    with torch.no_grad():
        program = torch.export.export(graph.module, rows)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    files = [ending(stem, ".pte"), ending(stem, ".names")]
    files[0].write_bytes(lowered.to_executorch().buffer)
    files[1].write_text(f"{' '.join(graph.feeds)}\n{graph.output}\n")
    return files


def open_graph(files: Sequence[Path], threads: int = 1) -> Runner:
    """A loaded method. XNNPACK takes as many threads as it likes, whatever `threads` says."""
    inputs, (output,) = (line.split() for line in files[1].read_text().splitlines())
    method = Runtime.get().load_program(str(files[0])).load_method("forward")

    def run(feeds: Arrays) -> dict[str, NDArray[Any]]:
        given = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in inputs]
        return {output: np.array(method.execute(given)[0].numpy())}

    return run


TARGET = EdgeTarget(
    "executorch",
    "executorch",
    f"executorch {version('executorch')}",
    convert,
    open_graph,
    batch=1,
    bytes_inside=False,
    from_torch=True,
    left_behind={"lookup": "not converted: search bank/embeddings.npy by inner products"},
    no_precision=dict.fromkeys(("fp16", "int8"), "not written yet"),
    snippet=SNIPPET,
)
