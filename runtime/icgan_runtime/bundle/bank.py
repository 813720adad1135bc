"""The stored instances of a bundle: embeddings, ids, optional labels, thumbnails (docs/format.md)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import files
from icgan_runtime.bundle import arrays, cells, changes, manifest
from icgan_runtime.bundle.cells import Cells
from icgan_runtime.bundle.changes import Base, State
from icgan_runtime.bundle.coded import CODINGS, Decoded, check_coding, decode, encode
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.strict_json import parse, to_json
from icgan_runtime.errors import BindingError, BundleError
from icgan_runtime.names import ENDS, TEXT, Names

FORMAT = "icgan-bank"
SCHEMA_VERSION = 1
FOLDER = "bank"
ABOUT_NAME = "bank.json"
UNIT_TOLERANCE = 1e-3
# Above this the embeddings are mapped from disk instead of read: processes of one machine share them.
_MAP_ABOVE_BYTES = 16 << 20
_HASHED_AT_ONCE = 16_384  # rows

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class About:
    """bank.json: the folder describes itself, so that it can serve another bundle of the same space."""

    encoder_id: str
    count: int
    embedding_dim: int
    labelled: bool
    thumbnail_size: int | None
    source: str
    licence: str


@dataclass(frozen=True, eq=False)
class Bank:
    """Stored instances, row i of every array being one of them."""

    encoder_id: str
    embeddings: F32  # [count, D], unit rows
    ids: I64  # [count], strictly increasing
    labels: I64 | None  # [count]
    thumbnails: U8 | None  # [count, T, T, 3]
    source: str = ""
    licence: str = ""
    names: Names | None = None  # the files they came from
    class_names: tuple[str, ...] | None = None  # that the labels are indices into, as the bundle says
    cells: Cells | None = None  # the stored index, where there is one
    stated_limit: float | None = None  # novelty.outside_below of this bank, as the bundle says
    coding: str = "float32"  # how the embeddings are stored (coded.py); here they are decoded
    state: State | None = None  # which of the states of a bundle's bank it is (changes.py)
    checked: dataclasses.InitVar[bool] = False  # its parts were looked at before (living.py)

    def __post_init__(self, checked: bool) -> None:
        if checked:
            return
        count = len(self.embeddings)
        if odd := first_not_unit(self.embeddings):
            row, length = odd
            raise BundleError(
                f"{FOLDER}/embeddings.npy",
                f"holds rows that are not of unit length, row {row} of length {length:.4g}",
            )
        # compared, not subtracted: a difference may overflow
        if count == 0 or self.ids[0] < 0 or bool(np.any(self.ids[1:] <= self.ids[:-1])):
            raise BundleError(f"{FOLDER}/ids.npy", "ids must be non-negative and strictly increasing")
        if self.labels is not None and bool(np.any(self.labels < 0)):
            raise BundleError(f"{FOLDER}/labels.npy", "holds a negative label")
        if self.names is not None and len(self.names) != count:
            raise BundleError(f"{FOLDER}/{ENDS}", f"{len(self.names)} names for {count} instances")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        also = [word for word in ("labels", "thumbnails", "names") if getattr(self, word) is not None]
        return (
            f"Bank({len(self)} instances × {self.embeddings.shape[1]}{''.join(f', {word}' for word in also)})"
        )

    @property
    def about(self) -> About:
        """What bank.json says of this bank."""
        return About(
            self.encoder_id,
            len(self),
            self.embeddings.shape[1],
            self.labels is not None,
            None if self.thumbnails is None else self.thumbnails.shape[1],
            self.source,
            self.licence,
        )

    def coded(self, coding: str) -> Bank:
        """The same bank stored otherwise: its rows are what readers will decode. Raises RequestError."""
        check_coding(coding)
        rows = self.embeddings if coding == "float32" else decode(encode(self.embeddings, coding))
        return dataclasses.replace(self, embeddings=rows, coding=coding)

    def rows(self, ids: I64) -> I64:
        """Row numbers of `ids`, same shape. Every id must be stored."""
        rows: I64 = np.searchsorted(self.ids, ids)
        return rows

    def classes(self, labels: I64) -> tuple[str, ...] | None:
        """What labels are called, "" where one has no name; None where nothing is known of names."""
        known = self.class_names
        if known is None:
            return None
        return tuple(known[label] if label < len(known) else "" for label in labels.tolist())

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Bank:
        """The bank of an opened bundle, every file verified. Raises BundleError."""
        bank = _read(
            bundle.read(f"{FOLDER}/{ABOUT_NAME}", manifest.MAX_MANIFEST_BYTES),
            lambda name: bundle.read(f"{FOLDER}/{name}"),
            lambda name: bundle.path(f"{FOLDER}/{name}"),
            lambda name: f"{FOLDER}/{name}" in bundle.manifest.files,
        )
        entry = bundle.manifest.bank
        said = About(
            entry.encoder_id,
            entry.count,
            bundle.manifest.model.embedding_dim,
            entry.labelled,
            entry.thumbnail_size,
            entry.source,
            entry.licence,
        )
        if bank.about != said:
            differing = [
                item.name
                for item in dataclasses.fields(About)
                if getattr(bank.about, item.name) != getattr(said, item.name)
            ]
            raise BindingError(
                f"{FOLDER}/{ABOUT_NAME}", f"differs from the manifest in {', '.join(differing)}"
            )
        bank.require_labels_below(bundle.manifest.model.classes)
        embeddings = bundle.manifest.files[f"{FOLDER}/embeddings.npy"].sha256
        if bank.cells is not None and bank.cells.about.embeddings != embeddings:
            raise BindingError(
                f"{FOLDER}/{cells.ABOUT_NAME}", "an index of other embeddings: make it anew with icgan index"
            )
        return dataclasses.replace(
            bank,
            class_names=label_names(bundle.manifest),
            stated_limit=stated_limit(bundle.manifest),
            state=base_of(bundle, bank).state,
        )

    @classmethod
    def read(cls, folder: str | Path) -> Bank:
        """A bank folder on its own, which has no manifest to verify its bytes. Raises BundleError."""
        root = Path(folder)
        return _read(
            files.read_bounded(files.locate(root, ABOUT_NAME), manifest.MAX_MANIFEST_BYTES, ABOUT_NAME),
            lambda name: files.read_bounded(files.locate(root, name), manifest.MAX_FILE_BYTES, name),
            lambda name: files.locate(root, name),
            lambda name: (root / name).exists(),
        )

    def write(self, folder: Path) -> None:
        """Write the files of docs/format.md into an existing folder."""
        plain = self.coding == "float32"
        stored = self.embeddings if plain else encode(self.embeddings, self.coding)
        arrays.write_npy(folder / "embeddings.npy", stored)
        arrays.write_npy(folder / "ids.npy", self.ids)
        if self.labels is not None:
            arrays.write_npy(folder / "labels.npy", self.labels)
        if self.thumbnails is not None:
            arrays.write_npy(folder / "thumbnails.npy", self.thumbnails)
        if self.names is not None:
            arrays.write_npy(folder / TEXT, self.names.text)
            arrays.write_npy(folder / ENDS, self.names.ends)
        if self.cells is not None:
            self.cells.write(folder)
        about = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **to_json(self.about)}
        (folder / ABOUT_NAME).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", "utf-8")

    def require_space(self, model: manifest.Model) -> None:
        """Raise BindingError unless this bank's embeddings and labels mean something to `model`."""
        if self.encoder_id != model.encoder_id:
            raise BindingError(
                FOLDER,
                f"made for embedding space {self.encoder_id[:12]}, but encoder {model.encoder.name} with its "
                f"preprocessing spans {model.encoder_id[:12]}; make the bank again with this encoder",
            )
        if self.embeddings.shape[1] != model.embedding_dim:
            raise BindingError(
                FOLDER,
                f"embeddings of width {self.embeddings.shape[1]}, {model.name} takes {model.embedding_dim}",
            )
        self.require_labels_below(model.classes)

    def require_labels_below(self, classes: int) -> None:
        """Raise BindingError if a class-conditional model could be asked for a label it does not have."""
        if classes and self.labels is not None and bool(np.any(self.labels >= classes)):
            raise BindingError(
                f"{FOLDER}/labels.npy",
                f"label {self.labels.max()} in a bank of a model with {classes} classes",
            )


def base_of(bundle: Bundle, bank: Bank) -> Base:
    """Where the stored bank of a bundle stands in its history."""
    return changes.base_of(bundle.manifest.files, bundle.manifest.provenance, int(bank.ids[-1]))


def embeddings_sha256(bank: Bank) -> str:
    """SHA-256 of the embeddings [count, D] as they lie in memory, some rows at a time."""
    whole = hashlib.sha256()
    for start in range(0, len(bank), _HASHED_AT_ONCE):
        rows = np.ascontiguousarray(bank.embeddings[start : start + _HASHED_AT_ONCE])
        whole.update(rows.data.cast("B"))
    return whole.hexdigest()


def first_not_unit(embeddings: F32) -> tuple[int, float] | None:
    """Number and length of the first row of [N, D] that is no unit row, NaN or infinity included.

    Looked at in blocks: a large bank is mapped, and decoded where it is read.
    """
    for start in range(0, len(embeddings), _HASHED_AT_ONCE):
        rows = np.asarray(embeddings[start : start + _HASHED_AT_ONCE])
        with np.errstate(over="ignore"):
            lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        unit = np.abs(lengths - 1) <= UNIT_TOLERANCE  # False for NaN, which would hide the true neighbours
        if not unit.all():
            row = int(unit.argmin())
            return start + row, float(lengths[row])
    return None


def label_names(book: manifest.Manifest) -> tuple[str, ...] | None:
    """What the labels of a bundle's bank are called: the model's classes, or what the bundle says of it."""
    if book.model.class_names is not None:
        return book.model.class_names
    match book.provenance.get("bank"):  # a report, which may hold anything
        case {"class_names": [*names]} if all(isinstance(name, str) for name in names):
            return tuple(names)
    return None


def stated_limit(book: manifest.Manifest) -> float | None:
    """What the bundle says of how far from its bank a query is outside of it (search/novelty.py)."""
    match book.provenance.get("bank"):
        case {"outside_below": float(limit)} if -1 <= limit <= 1:
            return limit
    return None


def _read(
    description: bytes,
    read: Callable[[str], bytes],
    path: Callable[[str], Path],
    has: Callable[[str], bool],
) -> Bank:
    about = _about(description)
    count, side = about.count, about.thumbnail_size
    large = count * about.embedding_dim * 4 > _MAP_ABOVE_BYTES

    def array(name: str, dtype: str, *shape: int) -> NDArray[Any]:
        whole = f"{FOLDER}/{name}"
        found = arrays.map_npy(path(name), whole) if large else arrays.read_npy(read(name), whole)
        return arrays.require(found, whole, dtype, shape, ABOUT_NAME)

    def names() -> Names | None:
        if not has(TEXT) and not has(ENDS):
            return None
        mapped = path(TEXT).stat().st_size > _MAP_ABOVE_BYTES
        text = arrays.map_npy(path(TEXT), TEXT) if mapped else arrays.read_npy(read(TEXT), f"{FOLDER}/{TEXT}")
        text = arrays.require(text, f"{FOLDER}/{TEXT}", "uint8", (None,), "the format")
        try:
            return Names(text, array(ENDS, "int64", count))
        except ValueError as error:
            raise BundleError(f"{FOLDER}/{TEXT}", str(error)) from None

    def index() -> Cells | None:
        if not has(cells.ABOUT_NAME):
            return None
        said = read(cells.ABOUT_NAME)
        return cells.read_cells(said, count, about.embedding_dim, array)

    embeddings, coding = _embeddings(about, path, read, large)
    return Bank(
        encoder_id=about.encoder_id,
        embeddings=embeddings,
        coding=coding,
        ids=array("ids.npy", "int64", count),
        labels=array("labels.npy", "int64", count) if about.labelled else None,
        thumbnails=array("thumbnails.npy", "uint8", count, side, side, 3) if side is not None else None,
        source=about.source,
        licence=about.licence,
        names=names(),
        cells=index(),
    )


def _embeddings(
    about: About, path: Callable[[str], Path], read: Callable[[str], bytes], large: bool
) -> tuple[F32, str]:
    """As float32, and how they are stored: what the file's header says."""
    name = "embeddings.npy"
    whole = f"{FOLDER}/{name}"
    found = arrays.map_npy(path(name), whole) if large else arrays.read_npy(read(name), whole)
    coding = next((coding for coding, dtype in CODINGS.items() if dtype == found.dtype), "float32")
    arrays.require(found, whole, coding, (about.count, about.embedding_dim), ABOUT_NAME)
    if coding == "float32":
        return found, coding
    return cast(F32, Decoded(found)) if large else decode(found), coding


def _about(data: bytes) -> About:
    about: About = parse(About, data, f"{FOLDER}/{ABOUT_NAME}", FORMAT, SCHEMA_VERSION)
    return about
