"""Edge files as a competitor in `icgan bench`: those of one runtime, written by `icgan-export edge`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_export.edge.target import EdgeTarget, Runner, find_target, in_rows
from icgan_export.edge.write import MANIFEST_NAME
from icgan_export.errors import ExportError
from icgan_runtime.backends.base import Array
from icgan_runtime.bundle.manifest import describe_files
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import RequestError
from icgan_runtime.verify import to_bytes


@dataclass(frozen=True, eq=False)
class EdgeRunner:
    """Encoder and generator of one edge runtime behind the inputs and outputs of docs/format.md."""

    target: EdgeTarget
    precision: str
    encoder: Runner
    generator: Runner
    bytes_on_disk: int  # of the two

    @property
    def runs_on(self) -> str:
        """What computes."""
        return f"{self.target.version}, {self.precision}"

    def embed(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, S, S, 3] -> float32 [N, D]."""
        given = image if self.target.bytes_inside else image.astype(np.float32)
        return in_rows(self.encoder, {"image": given}, self.target.batch)["embedding"]

    def generate(self, feeds: Mapping[str, Array]) -> NDArray[np.uint8]:
        """noise, embedding and, where the model takes them, label and truncation -> uint8 [N, R, R, 3]."""
        image = in_rows(self.generator, feeds, self.target.batch)["image"]
        return image if self.target.bytes_inside else to_bytes(image)


def open_edge(bundle: Path, threads: int, place: str) -> EdgeRunner:
    """FOLDER/TARGET or FOLDER/TARGET:PRECISION, of a folder that was made of `bundle`.

    Raises RequestError for a folder that is none, is of another bundle, has a changed file or no such graphs.
    """
    name, _, precision = place.partition(":")
    precision = precision or "fp32"
    folder = Path(name)
    try:
        about = json.loads((folder.parent / MANIFEST_NAME).read_text("utf-8"))
        graphs = about["targets"][folder.name]["graphs"]
        hashes = {path: entry["sha256"] for path, entry in about["files"].items()}
        made_of = about["bundle"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RequestError(
            "against", f"edge:{place}: {folder} is no folder of icgan-export edge; name FOLDER/TARGET"
        ) from None
    if made_of != Bundle.open(bundle).manifest.model.identity:
        raise RequestError("against", f"edge:{place} was made of {made_of}, another bundle than {bundle}")
    found = describe_files(folder.parent)
    files: dict[str, Sequence[Path]] = {}
    for graph in graphs:
        if graph["precision"] == precision:
            files[graph["role"]] = [folder / held for held in graph["files"]]
    if not {"encoder", "generator"} <= set(files):
        raise RequestError("against", f"edge:{place}: no {precision} there; icgan-export edge --precision")
    size = 0
    for role in ("encoder", "generator"):
        for path in files[role]:
            key = f"{folder.name}/{path.name}"
            if key not in found or found[key].sha256 != hashes.get(key):
                raise RequestError("against", f"edge:{place}: {path} is not the file that was written")
            size += found[key].bytes
    try:
        target = find_target(folder.name)
    except ExportError as error:
        raise RequestError("against", str(error)) from None
    if target.open is None:
        raise RequestError("against", f"edge:{place}: {target.name} does not run here")
    cores = threads or os.cpu_count() or 1
    encoder, generator = (target.open(files[role], cores) for role in ("encoder", "generator"))
    return EdgeRunner(target, precision, encoder, generator, size)
