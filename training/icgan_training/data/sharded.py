"""Neighbours among more pictures than fit in memory: one index trained once, filled in shards, merged.

An inverted file (Sivic and Zisserman, 2003) of product-quantised rows (Jégou et al., 2011) proposes
candidates; the embeddings themselves, mapped from disk, score them. Pictures are searched for cell by cell:
those of one cell share most of their candidates, so that each of these is read for many pictures at once.
Finished shards stay in a folder, and a killed run builds the others only.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.console import tell
from icgan_training.data.dataset import chunks, open_array, read_rows
from icgan_training.data.neighbours import (
    EXACT_UP_TO,
    ROWS_PER_CALL,
    CellIndex,
    Neighbourhoods,
    best_candidates,
    check_count,
    nearest_neighbours,
    nearest_others,
    radii_of,
    rows_at,
    train_cells,
)
from icgan_training.data.npy_rows import Rows
from icgan_training.data.shards import write_atomically
from icgan_training.progress import Progress

LEAST = 1000  # pictures: fewer train no index
SHARD_ROWS = 1 << 18
MERGED_BYTES = 2 << 30  # of compressed rows that are searched together
SAMPLE_BYTES = 1 << 30  # of embeddings that the cells are trained on
SAMPLE_PER_CELL = 40
LEAST_PER_CELL = 16
BLOCK_ROWS = 1 << 18  # pictures that one reading of all merged shards serves, where these are several
PROBES, MOST_PROBES = 32, 512
REACH, MOST_REACH = 4, 16  # candidates for each neighbour wanted
RECALL = 0.95  # cells or candidates double until it is reached
MEASURED_ON = 200  # pictures
_TIE = 1e-6


@dataclass(frozen=True)
class Effort:
    """How far a search looks."""

    probes: int  # cells read for a picture
    reach: int  # candidates scored for a picture


def find_neighbours(
    embeddings: NDArray[np.float32], k: int, exact_up_to: int = EXACT_UP_TO, *, folder: Path
) -> Neighbourhoods:
    """The k nearest other rows of every unit row, written to `neighbours.npy` and `radii.npy` in `folder`.

    Up to `exact_up_to` rows every pair is compared. Above, memory is a few blocks of rows and at most 2 GiB
    of compressed ones, and what share of the true neighbours is found is measured and said.
    Raises `DataError` when N < k + 1, or the disk is full: finished shards stay then.
    """
    count = len(embeddings)
    check_count(count, k)
    if count <= max(exact_up_to, LEAST):
        found = nearest_neighbours(embeddings, k)
        np.save(folder / "neighbours.npy", found.indices)
        np.save(folder / "radii.npy", found.radii)
        return found
    work = folder / "search"
    merged = _Merged(_build(embeddings, work))
    effort = _measured(embeddings, merged, k)
    for name, dtype, shape in (("neighbours", "int32", (count, k)), ("radii", "float32", (count,))):
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    order = merged.by_cell(count)
    together = ROWS_PER_CALL if len(merged.groups) == 1 else BLOCK_ROWS
    with (
        Rows(folder / "neighbours.npy") as indices,
        Rows(folder / "radii.npy") as radii,
        Progress(count, "neighbours", "pictures") as progress,
    ):
        for block in chunks(count, together):
            own = order[block]
            candidates = merged.search(embeddings, own, effort)
            for part in chunks(len(own), ROWS_PER_CALL):
                scores, near = best_candidates(embeddings, own[part], candidates[part], k)
                places = np.argsort(own[part])
                indices.write(own[part][places], near[places])
                radii.write(own[part][places], radii_of(scores[places, -1]))
                progress.advance(len(places))
    shutil.rmtree(work)
    return Neighbourhoods(
        open_array(folder / "neighbours.npy", "int32", (count, k)),
        open_array(folder / "radii.npy", "float32", (count,)),
        exact=False,
    )


def cells_of(count: int, dim: int) -> tuple[int, int]:
    """How many cells, and how many rows to train them on."""
    sample = min(count, SAMPLE_BYTES // (4 * dim))
    cells = max(1, min(int(count**0.5), sample // LEAST_PER_CELL))
    return cells, min(sample, SAMPLE_PER_CELL * cells)


def _build(embeddings: NDArray[np.float32], work: Path) -> list[Path]:
    """The files of the shards; those that are there already are kept."""
    count, dim = embeddings.shape
    cells, sample = cells_of(count, dim)
    about = {"count": count, "dim": dim, "cells": cells, "sample": sample, "shard": SHARD_ROWS}
    if not (work / "about.json").exists() or json.loads((work / "about.json").read_text()) != about:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        tell(f"neighbours: training {cells} cells on {sample} of {count} pictures")
        some = np.sort(np.random.default_rng(0).choice(count, sample, replace=False))
        train_cells(read_rows(embeddings, some), cells).write(work / "empty.index")
        write_atomically(work / "about.json", json.dumps(about))
    files = []
    with Progress(count, "index", "pictures") as progress:
        for number, rows in enumerate(chunks(count, SHARD_ROWS)):
            file = work / f"{number:06d}.index"
            files.append(file)
            if not file.exists():
                shard = CellIndex.read(work / "empty.index")
                for start in range(rows.start, rows.stop, ROWS_PER_CALL):
                    part = slice(start, min(start + ROWS_PER_CALL, rows.stop))
                    shard.add(read_rows(embeddings, part), start)
                shard.write(file)
            progress.advance(rows.stop - rows.start)
    return files


class _Merged:
    """Shards in groups of at most MERGED_BYTES; with one group it stays in memory."""

    def __init__(self, files: list[Path]) -> None:
        size = max(1, MERGED_BYTES // max(file.stat().st_size for file in files))
        self.groups = [files[start : start + size] for start in range(0, len(files), size)]
        self._held = self._load(self.groups[0]) if len(self.groups) == 1 else None

    def indexes(self) -> Iterator[CellIndex]:
        """Each group, one after the other."""
        if self._held is not None:
            yield self._held
            return
        for group in self.groups:
            yield self._load(group)

    def by_cell(self, count: int) -> NDArray[np.int64]:
        """All rows, those of one cell together."""
        cell = np.empty(count, np.int32)
        for index in self.indexes():
            for number, rows in index.cells():
                cell[rows] = number
        return np.argsort(cell, kind="stable")

    def search(
        self, embeddings: NDArray[np.float32], own: NDArray[np.int64], effort: Effort
    ) -> NDArray[np.int64]:
        """Candidates [n, reach] of some rows, -1 where there are fewer."""
        best = np.full((len(own), effort.reach), -np.inf, np.float32)
        found = np.full((len(own), effort.reach), -1, np.int64)
        for index in self.indexes():
            for part in chunks(len(own), ROWS_PER_CALL):
                scores, rows = index.search(rows_at(embeddings, own[part]), effort.reach, effort.probes)
                if self._held is not None:
                    found[part] = rows
                    continue
                scores[rows < 0] = -np.inf
                scores, rows = np.hstack([best[part], scores]), np.hstack([found[part], rows])
                keep = np.argsort(-scores, axis=1, kind="stable")[:, : effort.reach]
                best[part] = np.take_along_axis(scores, keep, 1)
                found[part] = np.take_along_axis(rows, keep, 1)
        return found

    @staticmethod
    def _load(files: list[Path]) -> CellIndex:
        first = CellIndex.read(files[0])
        for file in files[1:]:
            first.absorb(CellIndex.read(file))
        return first


def _measured(embeddings: NDArray[np.float32], merged: _Merged, k: int) -> Effort:
    """The least effort that finds RECALL of the true neighbours of some pictures; it is said."""
    count = len(embeddings)
    cells = cells_of(*embeddings.shape)[0]
    own = np.linspace(0, count - 1, min(count, MEASURED_ON)).astype(np.int64)
    scores = nearest_others(own, embeddings, k)[0]

    def recall_of(effort: Effort) -> float:
        found = best_candidates(embeddings, own, merged.search(embeddings, own, effort), k)[0]
        return float((found >= scores - _TIE).mean())  # a copy of a neighbour is as good as that

    effort = Effort(min(PROBES, cells), min(REACH * (k + 1), count))
    recall = recall_of(effort)
    while recall < RECALL:
        more = Effort(min(2 * effort.probes, cells, MOST_PROBES), effort.reach)
        longer = Effort(effort.probes, min(2 * effort.reach, count, MOST_REACH * (k + 1)))
        wider = [(recall_of(tried), tried) for tried in (more, longer) if tried != effort]
        if not wider:
            break
        recall, effort = max(wider, key=lambda one: one[0])  # on equal terms more cells, which cost less
    tell(
        f"neighbours: {effort.probes} of {cells} cells are read for a picture and {effort.reach} candidates "
        f"scored; that finds {recall:.3f} of the true neighbours of {len(own)} pictures"
    )
    if recall < RECALL:
        tell(f"warning: {RECALL} was wanted: --exact-up-to {count} compares all pictures, and takes its time")
    return effort
