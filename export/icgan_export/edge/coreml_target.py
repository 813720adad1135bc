"""Core ML, by coremltools: its converter reads torch modules, so it needs the run.

It runs on Apple's systems alone: elsewhere the file is converted and its specification checked, and
nobody has seen its pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import coremltools as ct
import torch

from icgan_export.edge.target import EdgeTarget, TorchGraph, ending
from icgan_export.errors import ExportError

SNIPPET = """\
import coremltools as ct  # on macOS; in Swift: MLModel(contentsOf:), with the same names
import numpy as np

generator = ct.models.MLModel("{generator}")
feeds = dict(zip({inputs}, [np.zeros(shape, np.float32) for shape in {shapes}]))
image = generator.predict(feeds)["image"]  # [1, 3, R, R] in [-1, 1]
print(image.dtype, image.shape)
"""


def convert(graph: TorchGraph, stem: Path, precision: str = "fp32") -> Sequence[Path]:
    """`stem`.mlpackage, an ML program for one picture; float32 at both ends."""
    rows = tuple(torch.from_numpy(array[:1]) for array in graph.feeds.values())
    kind = ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32
    with torch.no_grad():
        program = torch.export.export(graph.module, rows).run_decompositions({})
        try:
            model = ct.convert(program, minimum_deployment_target=ct.target.iOS16, compute_precision=kind)
        except (ValueError, NotImplementedError, RuntimeError) as error:
            raise ExportError(f"coreml: {stem.name} is not converted: {str(error).splitlines()[0]}") from None
    specification = model.get_spec()
    names = [
        (value.name, name) for value, name in zip(specification.description.input, graph.feeds, strict=True)
    ]
    for old, new in [*names, (specification.description.output[0].name, graph.output)]:
        if old != new:
            ct.utils.rename_feature(specification, old, new)
    path = ending(stem, ".mlpackage")
    ct.models.MLModel(specification, weights_dir=model.weights_dir, skip_model_load=True).save(str(path))
    return [path]


def inspect(files: Sequence[Path], graph: TorchGraph) -> Mapping[str, int]:
    """Operator -> how often, of a written file. Raises ExportError where its ends are not the graph's."""
    specification = ct.models.MLModel(str(files[0]), skip_model_load=True).get_spec()
    ends = {value.name: list(value.type.multiArrayType.shape) for value in specification.description.input}
    wanted = {name: [1, *array.shape[1:]] for name, array in graph.feeds.items()}
    outputs = [value.name for value in specification.description.output]
    if ends != wanted or outputs != [graph.output]:
        raise ExportError(f"coreml: {files[0].name} takes {ends} and gives {outputs}, expected {wanted}")
    (block,) = specification.mlProgram.functions["main"].block_specializations.values()
    return Counter(operation.type for operation in block.operations if operation.type != "const")


TARGET = EdgeTarget(
    "coreml",
    "coreml",
    f"coremltools {version('coremltools')}",
    convert,
    None,
    inspect=inspect,
    batch=1,
    bytes_inside=False,
    from_torch=True,
    lowers=True,
    left_behind={"lookup": "not converted: search bank/embeddings.npy by inner products"},
    no_precision={"int8": "it could not be compared with anything here"},
    snippet=SNIPPET,
)
