"""More pictures for a prepared set: what it holds stays as it is, neighbours are found among all."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.names import Names
from icgan_training.data.dataset import ENCODER, PreparedDataset, chunks, read_rows
from icgan_training.data.shards import PrepareSettings
from icgan_training.data.sources import Source, SourceNote
from icgan_training.errors import DataError

JOINED = "joined"
ARRAYS = ("images", "embeddings", "embeddings_flipped")


@dataclass(frozen=True)
class Labels:
    """The labels [N] of a set and what they are indices into; None, None without."""

    rows: NDArray[np.int64] | None
    names: list[str] | None


def check_labels(base: PreparedDataset, source: Source) -> None:
    """Raise `DataError` where one of both sets has labels and the other has none."""
    if (base.labels is None) != (source.labels is None):
        has, lacks = ("it", "SOURCE") if source.labels is None else ("SOURCE", "it")
        raise DataError(
            f"--add-to {base.path}: {has} has labels, {lacks} has none: sort the pictures into folders of its"
            " classes, or prepare both with --no-labels"
        )


def check_same_encoder(base: PreparedDataset, settings: PrepareSettings) -> None:
    """Raise `DataError` where the new embeddings would not be of the set's own space."""
    if settings.crop != base.meta.crop:
        raise DataError(
            f"--add-to {base.path} has pictures made square by {base.meta.crop}: so must these be"
        )
    if settings.encoder_sha256 != base.meta.encoder.sha256 or settings.resolution != base.meta.resolution:
        own, wanted = base.meta.encoder.sha256[:12], settings.encoder_sha256[:12]
        raise DataError(
            f"--add-to {base.path} has {base.meta.resolution} px and encoder {own}..., not"
            f" {settings.resolution} px and {wanted}...: its embeddings are of another space"
        )


def join_notes(base: PreparedDataset, source: Source) -> SourceNote:
    """Whose the pictures of both are."""

    def both(before: str, added: str) -> str:
        return before if added in ("", before) else f"{before}; {added}" if before else added

    meta, note = base.meta, source.note
    return SourceNote(meta.name, both(meta.source, note.source), both(meta.licence, note.licence))


def join_labels(base: PreparedDataset, added: Labels) -> Labels:
    """Those of all pictures; classes by their names, new ones behind those of the set."""
    if base.labels is None or added.rows is None or added.names is None or base.meta.class_names is None:
        return Labels(None, None)
    names = list(base.meta.class_names)
    names += [name for name in added.names if name not in names]
    number = np.array([names.index(name) for name in added.names], np.int64)
    return Labels(np.concatenate([np.asarray(base.labels), number[added.rows]]), names)


def join_names(base: PreparedDataset, added: Names | None, count: int) -> Names | None:
    """The names of all pictures, "" where one has none."""
    if base.names is None and added is None:
        return None
    before = [""] * base.meta.count if base.names is None else base.names.pick(range(base.meta.count))
    return Names.of([*before, *([""] * count if added is None else added.pick(range(count)))])


def join_arrays(base: PreparedDataset, partial: Path, count: int) -> Path:
    """A new folder in `partial` with the arrays of both, its own `count` rows last, and the encoder."""
    folder = partial / JOINED
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    shutil.copyfile(partial / ENCODER, folder / ENCODER)
    for name in ARRAYS:
        held = getattr(base, name)
        added = np.load(partial / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        total = base.meta.count + count
        whole = np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=held.dtype, shape=(total, *held.shape[1:])
        )
        for rows in chunks(base.meta.count):
            whole[rows] = read_rows(held, rows)
        for rows in chunks(count):
            whole[base.meta.count + rows.start : base.meta.count + rows.stop] = added[rows]
        whole.flush()
    return folder
