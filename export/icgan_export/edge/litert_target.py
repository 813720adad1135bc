"""LiteRT (TensorFlow Lite), by litert-torch: its converter reads torch modules, so it needs the run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import litert_torch
import torch
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe
from numpy.typing import NDArray

from icgan_export.edge.target import Arrays, EdgeTarget, Runner, TorchGraph, ending

# Weights are stored as halves or as bytes with a scale for each channel; what is computed stays float32.
HALVES = (
    qtyping.TFLOperationName.ALL_SUPPORTED,
    qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=16, dtype=qtyping.TensorDataType.FLOAT
        ),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    ),
    algorithm_manager.AlgorithmName.FLOAT_CASTING,
)
SNIPPET = """\
import numpy as np
from ai_edge_litert.interpreter import Interpreter

generator = Interpreter("{generator}").get_signature_runner()
feeds = {{f"args_{{index}}": np.zeros(shape, np.float32) for index, shape in enumerate({shapes})}}
image = generator(**feeds)["output_0"]  # [1, 3, R, R] in [-1, 1]
print(image.dtype, image.shape)
"""


def convert(graph: TorchGraph, stem: Path, precision: str = "fp32") -> Sequence[Path]:
    """`stem`.tflite for one picture, and `stem`.names: its inputs and its output in their order."""
    rows = tuple(torch.from_numpy(array[:1]) for array in graph.feeds.values())
    files = [ending(stem, ".tflite"), ending(stem, ".names")]
    whole = files[0] if precision == "fp32" else ending(stem, ".float.tflite")
    litert_torch.convert(graph.module, rows).export(str(whole))
    if precision != "fp32":
        lowered = quantizer.Quantizer(str(whole))
        if precision == "int8":
            lowered.load_quantization_recipe(recipe.weight_only_wi8_afp32())
        else:
            lowered.update_quantization_recipe(".*", *HALVES)
        lowered.quantize().export_model(str(files[0]))
        whole.unlink()
    files[1].write_text(f"{' '.join(graph.feeds)}\n{graph.output}\n")
    return files


def open_graph(files: Sequence[Path], threads: int = 1) -> Runner:
    """An interpreter of the processor's."""
    inputs, (output,) = (line.split() for line in files[1].read_text().splitlines())
    runner = Interpreter(model_path=str(files[0]), num_threads=threads).get_signature_runner()

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
    lowers=True,
    left_behind={"lookup": "not converted: search bank/embeddings.npy by inner products"},
    snippet=SNIPPET,
)
