"""A bank's stored index: instances in cells around centroids, a byte for each principal component.

The inverted file of Sivic and Zisserman (2003) and Jégou et al. (2011), as plain arrays beside the embeddings
(docs/format.md). `icgan index` writes it, so that a large bank need not be indexed at every start.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import files
from icgan_runtime.bundle import arrays
from icgan_runtime.bundle.strict_json import parse, to_json
from icgan_runtime.errors import BundleError

FORMAT = "icgan-index"
SCHEMA_VERSION = 1
ABOUT_NAME = "index.json"
FILES = tuple(f"index_{name}.npy" for name in ("axes", "centroids", "scale", "sizes", "rows", "codes"))

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class AboutCells:
    """index.json: which embeddings it belongs to, how a query reads it, and what that found."""

    embeddings: str  # SHA-256 of embeddings.npy
    count: int
    embedding_dim: int
    components: int
    cells: int
    probes: int  # cells that a query reads
    candidates: int  # of them scored exactly
    recall_at_1: float  # measured on `queries` of the instances, each without itself
    recall_at_10: float
    queries: int


@dataclass(frozen=True, eq=False)
class Cells:
    """The arrays. C cells of W components; instances stand in the order of their cells."""

    about: AboutCells
    axes: F32  # [D, W], orthonormal
    centroids: F32  # [C, W]
    scale: F32  # [2 W]: least difference to a centroid, and range, of each component
    sizes: I64  # [C]
    rows: I64  # [count]: of the bank
    codes: U8  # [count, W]

    def __post_init__(self) -> None:
        count = self.about.count
        if bool(np.any(self.sizes < 0)) or int(self.sizes.sum()) != count:
            raise BundleError(FILES[3], f"its cells do not hold {count} instances together")
        if self.rows.min(initial=0) < 0 or self.rows.max(initial=0) >= count:
            raise BundleError(FILES[4], f"a row beyond the {count} of the bank")
        if not np.bincount(self.rows, minlength=count).all():
            raise BundleError(FILES[4], "an instance is in no cell")
        for name in ("axes", "centroids", "scale"):
            if not np.isfinite(getattr(self, name)).all():
                raise BundleError(f"index_{name}.npy", "holds a number that is not finite")

    def write(self, folder: Path) -> None:
        """Write the arrays into an existing folder, and index.json last: without it there is no index."""
        for file in FILES:
            with files.atomic_file(folder / file) as partial:
                arrays.write_npy(partial, getattr(self, file.removeprefix("index_").removesuffix(".npy")))
        with files.atomic_file(folder / ABOUT_NAME) as partial:
            about = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **to_json(self.about)}
            partial.write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def read_cells(description: bytes, count: int, width: int, array: Callable[..., NDArray[Any]]) -> Cells:
    """The index that `description` (index.json) speaks of; `array(file, dtype, *shape)` reads one array.

    Raises BundleError where it is another bank's, or no index.
    """
    about: AboutCells = parse(AboutCells, description, ABOUT_NAME, FORMAT, SCHEMA_VERSION)
    if (about.count, about.embedding_dim) != (count, width):
        raise BundleError(
            ABOUT_NAME,
            f"an index of {about.count} × {about.embedding_dim}, the bank has {count} × {width}: "
            "make it anew with icgan index",
        )
    for item in fields(AboutCells):
        value = getattr(about, item.name)
        if isinstance(value, int) and value < 1:
            raise BundleError(ABOUT_NAME, f"{item.name} is {value}, expected at least 1")
    components, cells = about.components, about.cells
    return Cells(
        about,
        axes=array(FILES[0], "float32", width, components),
        centroids=array(FILES[1], "float32", cells, components),
        scale=array(FILES[2], "float32", 2 * components),
        sizes=array(FILES[3], "int64", cells),
        rows=array(FILES[4], "int64", count),
        codes=array(FILES[5], "uint8", count, components),
    )
