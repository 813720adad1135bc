"""OpenVINO's own format, in float32: its default would write FP16 weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
from numpy.typing import NDArray

from icgan_export.edge.target import Arrays, EdgeTarget, Runner, ending

SNIPPET = """\
import numpy as np
import openvino as ov

generator = ov.compile_model("{generator}", "CPU")
feeds = dict(zip({inputs}, [np.zeros(shape, np.float32) for shape in {shapes}]))
image = generator(feeds)["image"]
print(image.dtype, image.shape)
"""


def convert(model: onnx.ModelProto, stem: Path, precision: str = "fp32") -> Sequence[Path]:
    """`stem`.xml and `stem`.bin; whatever is FP16 or INT8 in the graph stays so."""
    source = ending(stem, ".onnx")
    onnx.save(model, source)
    files = [ending(stem, ".xml"), ending(stem, ".bin")]
    ov.save_model(ov.convert_model(source), files[0], compress_to_fp16=False)
    source.unlink()
    return files


def open_graph(files: Sequence[Path], threads: int = 1) -> Runner:
    """A compiled model, in float32."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads,
    }  # fmt: skip
    compiled = ov.Core().compile_model(files[0], "CPU", settings)
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.outputs]

    def run(feeds: Arrays) -> dict[str, NDArray[Any]]:
        found = request.infer(dict(feeds))
        return {name: np.array(found[index]) for index, name in enumerate(names)}

    return run


TARGET = EdgeTarget(
    "openvino", "openvino", f"openvino {ov.__version__.split('-')[0]}", convert, open_graph, snippet=SNIPPET
)
