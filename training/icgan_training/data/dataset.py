"""The prepared data set: what `icgan-train prepare` writes and training, evaluation and export read.

A directory with `dataset.json` and one `.npy` file per array, opened memory-mapped: random access costs a
page read and never decodes a picture again.

`dataset.json` holds size and SHA-256 of every other file. `open` compares the sizes, headers and the values
that have a range; `verify` reads and hashes all of it, which every command does once before it uses the set.
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

from icgan_runtime.files import sha256_of_file
from icgan_runtime.identity import CENTRE, CROPS, EncoderIdentity, FileEntry
from icgan_runtime.names import ENDS, TEXT, Names
from icgan_training.errors import DataError
from icgan_training.integrity import inside, read_json
from icgan_training.progress import Progress

DESCRIPTION = "dataset.json"
ENCODER = "encoder.safetensors"
SCHEMA_VERSION = 1
ROWS_PER_CHECK = 8192
UNIT_TOLERANCE = 1e-3


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
    files: dict[str, FileEntry] | None = None  # all the others; None: prepared before they were hashed
    crop: str = CENTRE  # one of CROPS: how pictures became square
    selection: dict[str, Any] | None = None  # by which pictures of the source were taken; None: all

    def to_json(self) -> str:
        """The text of `dataset.json`; `from_json` reads it back to an equal value."""
        fields = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        for name, usual in (("crop", CENTRE), ("selection", None)):
            if fields[name] == usual:  # so that sets without them are what they were
                del fields[name]
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "DatasetMeta":
        """The inverse of `to_json`, from parsed JSON; ValueError, TypeError or KeyError for anything else."""
        version = fields.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {version}, this program reads {SCHEMA_VERSION}")
        encoder, listed = EncoderIdentity(**fields.pop("encoder")), fields.pop("files", None)
        files = None if listed is None else {name: FileEntry(**entry) for name, entry in dict(listed).items()}
        if files is not None and files[ENCODER].sha256 != encoder.sha256:
            raise ValueError(f"encoder.sha256 is not that of {ENCODER}")
        names = fields["class_names"]
        if names is not None and not (
            isinstance(names, list) and all(isinstance(name, str) for name in names)
        ):
            raise ValueError("class_names is not a list of names")
        if fields.get("crop", CENTRE) not in CROPS:
            raise ValueError(f"crop is {fields['crop']!r}, this program knows {' and '.join(CROPS)}")
        return cls(**fields, encoder=encoder, files=files)


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
    names: Names | None = None  # [N], the files the pictures came from, where they came from files

    def title(self, row: int) -> str:
        """What people call a picture: its file, or its row."""
        return (self.names[row] if self.names is not None else "") or f"row {row}"

    def class_of(self, row: int) -> str:
        """The name of a picture's class, "" without labels."""
        if self.labels is None or self.meta.class_names is None:
            return ""
        return self.meta.class_names[int(self.labels[row])]

    @property
    def encoder_path(self) -> Path:
        """The weights file of the encoder that made the embeddings."""
        return self.path / ENCODER

    @property
    def class_count(self) -> int | None:
        """How many classes the labels are indices into; None without labels."""
        return None if self.meta.class_names is None else len(self.meta.class_names)

    @classmethod
    def open(cls, path: Path | str) -> "PreparedDataset":
        """Open a prepared directory and check what is quick: places, sizes, headers, values with a range.

        Raises `DataError` naming the file and its fault. `verify` hashes the files.
        """
        path = Path(path)
        meta = read_meta(path)
        names = ["images", "embeddings", "embeddings_flipped", "neighbours", "radii"]
        names += [] if meta.class_names is None else ["labels"]
        for name in (*(f"{name}.npy" for name in names), ENCODER):
            _locate(path, name, meta)
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
            names=_open_names(path, meta),
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

    def verify(self) -> None:
        """Read every file once and compare its SHA-256; raises `DataError` naming the first that differs.

        Does nothing for a set that was prepared before files were hashed.
        """
        files = self.meta.files or {}
        with Progress(
            sum(entry.bytes for entry in files.values()), f"verify {self.path}", "bytes"
        ) as progress:
            for name, entry in files.items():
                found = sha256_of_file(_locate(self.path, name, self.meta), progress.advance)
                if found != entry.sha256:
                    raise DataError(
                        f"{self.path / name} has SHA-256 {found[:12]}..., {DESCRIPTION} says "
                        f"{entry.sha256[:12]}...; prepare the data set again"
                    )

    def _check_values(self) -> None:
        for name in ("embeddings", "embeddings_flipped"):
            check_unit_rows(getattr(self, name), self.path / f"{name}.npy")
        _check_range(self.neighbours, 0, self.meta.count, self.path / "neighbours.npy")
        if self.labels is not None:
            _check_range(self.labels, 0, self.class_count or 0, self.path / "labels.npy")


def _open_names(path: Path, meta: DatasetMeta) -> Names | None:
    """The names of the pictures; None in a set that has none, or was prepared before names were kept."""
    if meta.files is None or TEXT not in meta.files:
        return None
    for name in (TEXT, ENDS):
        _locate(path, name, meta)
    ends = open_array(path / ENDS, "int64", (meta.count,))
    try:
        return Names(open_array(path / TEXT, "uint8", (int(ends[-1]),)), ends)
    except ValueError as error:
        raise DataError(f"{path / TEXT}: {error}; prepare the data set again") from error


def read_meta(path: Path) -> DatasetMeta:
    """`dataset.json` of a prepared directory. Raises `DataError` when there is none or it cannot be used."""
    file = path / DESCRIPTION
    if not file.exists():
        raise DataError(
            f"{path} is not a prepared data set (no {DESCRIPTION}): make one with icgan-train prepare"
        )
    try:
        return DatasetMeta.from_json(read_json(inside(path, DESCRIPTION)))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file} cannot be used: {error}; prepare the data set again") from error


def describe_files(path: Path) -> dict[str, FileEntry]:
    """Entries of the arrays and the encoder of a finished directory, in sorted order."""
    listed = [file for file in sorted(path.iterdir()) if file.suffix in (".npy", ".safetensors")]
    with Progress(sum(file.stat().st_size for file in listed), "hash", "bytes") as progress:
        return {
            file.name: FileEntry(file.stat().st_size, sha256_of_file(file, progress.advance))
            for file in listed
        }


def _locate(path: Path, name: str, meta: DatasetMeta) -> Path:
    """The file `name` of the set, after a look at where it lies and how large it is."""
    files = meta.files
    try:
        found = inside(path, name)
        size = found.stat().st_size
        if files is not None and name not in files:
            raise ValueError(f"is not listed in {DESCRIPTION}")
        if files is not None and size != files[name].bytes:
            raise ValueError(f"has {size} bytes, {DESCRIPTION} says {files[name].bytes}")
    except (ValueError, OSError) as error:
        raise DataError(f"{path / name} {error}; prepare the data set again") from error
    return found


def open_array(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Memory-map one array read-only and check what it is."""
    try:
        place = inside(path.parent, path.name)
    except ValueError as error:
        raise DataError(f"{path} {error}; prepare the data set again") from error
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(place, mode="r")
    except Exception as error:  # numpy evaluates the header: SyntaxError, TokenError and more come out of it
        raise DataError(f"{path} is damaged ({error}); prepare the data set again") from error
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{path} holds {array.dtype} {list(array.shape)}, dataset.json says {dtype} {list(shape)}"
        )
    return array


def chunks(count: int, size: int = ROWS_PER_CHECK) -> Iterator[slice]:
    """Consecutive row ranges that cover `count` rows."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def read_rows(array: NDArray[Any], rows: slice | NDArray[np.int64]) -> NDArray[Any]:
    """A copy of some rows. The pages of a memory-mapped file are given back, so that reading a file of any
    size piece by piece stays small in memory."""
    taken = array[rows]  # of a slice a view, of numbers a copy already
    copy = np.asarray(taken) if isinstance(rows, np.ndarray) else np.array(taken)
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_DONTNEED)
    return copy


def check_unit_rows(embeddings: NDArray[np.float32], origin: Path | str) -> None:
    """Raise `DataError` naming the first row that is not finite or not of length 1."""
    for rows in chunks(len(embeddings)):
        with np.errstate(over="ignore"):  # a damaged number may be too large to be squared
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
