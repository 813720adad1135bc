"""The prepared data set: what `icgan-train prepare` writes and training, evaluation and export read.

A directory with `dataset.json` and one `.npy` file per array, opened memory-mapped: random access costs a
page read and never decodes a picture again.
"""

import dataclasses
import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_training.errors import DataError

SCHEMA_VERSION = 1
ROWS_PER_CHECK = 8192
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class EncoderIdentity:
    """Which encoder made the embeddings; a generator understands those of one encoder only."""

    name: str
    sha256: str
    input_size: int
    embedding_dim: int


@dataclass(frozen=True)
class DatasetMeta:
    """`dataset.json`."""

    name: str
    count: int  # N
    resolution: int  # R
    embedding_dim: int  # D
    neighbours: int  # k
    class_names: list[str] | None  # labels are indices into it; None: no labels
    source: str
    licence: str
    encoder: EncoderIdentity
    unreadable: int = 0  # pictures of the source that could not be decoded

    def to_json(self) -> str:
        fields = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "DatasetMeta":
        fields: dict[str, Any] = json.loads(text)
        version = fields.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise DataError(f"schema_version is {version}, this program reads {SCHEMA_VERSION}")
        encoder = EncoderIdentity(**fields.pop("encoder"))
        return cls(**fields, encoder=encoder)


@dataclass(frozen=True)
class PreparedDataset:
    """Arrays of N pictures, memory-mapped and read-only."""

    path: Path
    meta: DatasetMeta
    images: NDArray[np.uint8]  # [N, R, R, 3] RGB
    embeddings: NDArray[np.float32]  # [N, D], unit rows
    embeddings_flipped: NDArray[np.float32]  # [N, D], of the mirrored pictures
    labels: NDArray[np.int64] | None  # [N]
    neighbours: NDArray[np.int32]  # [N, k], nearest first, the row itself excluded
    radii: NDArray[np.float32]  # [N], distance to the k-th neighbour

    @property
    def encoder_path(self) -> Path:
        return self.path / "encoder.safetensors"

    @property
    def class_count(self) -> int | None:
        return None if self.meta.class_names is None else len(self.meta.class_names)

    @classmethod
    def open(cls, path: Path | str) -> "PreparedDataset":
        """Open and check a prepared directory; raises `DataError` naming the file and its fault."""
        path = Path(path)
        meta = read_meta(path)
        n, r, d, k = meta.count, meta.resolution, meta.embedding_dim, meta.neighbours
        labels = None
        if meta.class_names is not None:
            labels = open_array(path / "labels.npy", "int64", (n,))
        dataset = cls(
            path=path,
            meta=meta,
            images=open_array(path / "images.npy", "uint8", (n, r, r, 3)),
            embeddings=open_array(path / "embeddings.npy", "float32", (n, d)),
            embeddings_flipped=open_array(path / "embeddings_flipped.npy", "float32", (n, d)),
            labels=labels,
            neighbours=open_array(path / "neighbours.npy", "int32", (n, k)),
            radii=open_array(path / "radii.npy", "float32", (n,)),
        )
        dataset._check_values()
        return dataset

    def nearest(self, k: int | None) -> "PreparedDataset":
        """The same pictures with neighbourhoods of the first k of the prepared neighbours; None: all of them.

        Raises DataError when fewer than k were prepared.
        """
        if k is None or k == self.meta.neighbours:
            return self
        if not 1 <= k < self.meta.neighbours:
            raise DataError(
                f"neighbours is {k}, {self.path} holds {self.meta.neighbours} for each picture:"
                " choose fewer, or prepare it again with --neighbours"
            )
        radii = np.empty_like(self.radii)
        for rows in chunks(self.meta.count):
            last = np.asarray(self.embeddings[self.neighbours[rows, k - 1]])
            radii[rows] = np.linalg.norm(read_rows(self.embeddings, rows) - last, axis=1)
        return dataclasses.replace(
            self,
            meta=dataclasses.replace(self.meta, neighbours=k),
            neighbours=self.neighbours[:, :k],
            radii=radii,
        )

    def _check_values(self) -> None:
        for name in ("embeddings", "embeddings_flipped"):
            check_unit_rows(getattr(self, name), self.path / f"{name}.npy")
        _check_range(self.neighbours, 0, self.meta.count, self.path / "neighbours.npy")
        if self.labels is not None:
            _check_range(self.labels, 0, self.class_count or 0, self.path / "labels.npy")


def read_meta(path: Path) -> DatasetMeta:
    """`dataset.json` of a prepared directory."""
    file = path / "dataset.json"
    try:
        return DatasetMeta.from_json(file.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{path} is not a prepared data set (no dataset.json): make one with icgan-train prepare"
        ) from error
    except (DataError, json.JSONDecodeError, TypeError, KeyError) as error:
        raise DataError(f"{file} cannot be used: {error}; prepare the data set again") from error


def open_array(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Memory-map one array read-only and check what it is."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; prepare the data set again") from error
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); prepare the data set again") from error
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{path} holds {array.dtype} {list(array.shape)}, dataset.json says {dtype} {list(shape)}"
        )
    return array  # type: ignore[no-any-return]


def chunks(count: int, size: int = ROWS_PER_CHECK) -> Iterator[slice]:
    """Consecutive row ranges that cover `count` rows."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def read_rows(array: NDArray[Any], rows: slice | NDArray[np.int64]) -> NDArray[Any]:
    """A copy of some rows. The pages of a memory-mapped file are given back, so that reading a file of any
    size piece by piece stays small in memory."""
    copy = np.array(array[rows])
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_DONTNEED)
    return copy


def check_unit_rows(embeddings: NDArray[np.float32], origin: Path | str) -> None:
    """Raise `DataError` naming the first row that is not finite or not of length 1."""
    for rows in chunks(len(embeddings)):
        norms = np.linalg.norm(read_rows(embeddings, rows), axis=1)
        bad = np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))  # also true for NaN
        if len(bad):
            raise DataError(
                f"{origin}: row {rows.start + bad[0]} has length {norms[bad[0]]}, embeddings must be unit "
                "rows (NaN means a broken encoder file); prepare the data set again"
            )


def _check_range(values: NDArray[Any], low: int, high: int, origin: Path) -> None:
    for rows in chunks(len(values)):
        part = values[rows]
        if part.min() < low or part.max() >= high:
            row = rows.start + int(np.argwhere((part < low) | (part >= high))[0][0])
            raise DataError(f"{origin}: row {row} is outside [{low}, {high})")
