"""Which instance and seed drew a picture: candidates are drawn once, their fingerprints kept and compared.

A fingerprint is a picture's coarse band features in 8 bits (112 bytes). They depend on nothing but the
generator, the instance and the seeds, so an index folder keeps them: a search that was interrupted goes on,
and the next picture is looked up without drawing.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import files
from icgan_runtime.bundle.arrays import read_npy
from icgan_runtime.chain import LocalChain
from icgan_runtime.errors import BundleError, RequestError
from icgan_runtime.origin.likeness import COARSE, View, features, grey, views
from icgan_runtime.rows import CONDITIONS, OWN_LABEL, Rows

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

BLOCK = 1000  # candidates in one file of an index
MAX_CANDIDATES = 100_000_000
KEPT = 16  # best candidates that are drawn again
_SCALE = 400.0  # unit vectors of 112 numbers hardly ever have one beyond 127/400


@dataclass(frozen=True)
class Candidates:
    """The seeds and samples that are tried, and what all of them share."""

    seeds: range
    samples: range
    truncation: float  # infinity: untruncated
    condition: str = "query"
    label: int = OWN_LABEL

    def __post_init__(self) -> None:
        for name, values in (("seeds", self.seeds), ("samples", self.samples)):
            if len(values) == 0 or values.start < 0:
                raise RequestError(name, f"{values.start}-{values.stop - 1}, expected A-B with 0 <= A <= B")

    def pairs(self) -> tuple[I64, I64]:
        """Seeds and samples of all candidates of an instance, [M] each."""
        seeds = np.repeat(np.arange(self.seeds.start, self.seeds.stop, dtype=np.int64), len(self.samples))
        samples = np.tile(np.arange(self.samples.start, self.samples.stop, dtype=np.int64), len(self.seeds))
        return seeds, samples

    @property
    def count(self) -> int:
        """Candidates of one instance."""
        return len(self.seeds) * len(self.samples)


@dataclass(frozen=True)
class Candidate:
    """One drawing, and how alike its fingerprint is to the picture."""

    instance: int  # row of the embeddings that were searched
    seed: int
    sample: int
    view: View
    mirrored: bool
    cosine: float


def rows_of(settings: Candidates, seeds: I64, samples: I64, classes: int) -> Rows:
    """The rows of a request for some candidates."""
    count = len(seeds)
    return Rows(
        seed=seeds,
        sample=samples,
        truncation=np.full(count, settings.truncation, np.float32),
        condition=np.full(count, CONDITIONS.index(settings.condition), np.int32),
        label=np.full(count, settings.label, np.int64) if classes else None,
    )


def draw(chain: LocalChain, embedding: F32, settings: Candidates, seeds: I64, samples: I64) -> U8:
    """Pictures [M, R, R, 3] of one query embedding [D] from seeds and samples [M]."""
    ids, _ = chain.search(embedding[None], chain.neighbours)
    batch, parts = chain.max_batch, []
    for start in range(0, len(seeds), batch):
        chosen = slice(start, start + batch)
        rows = rows_of(settings, seeds[chosen], samples[chosen], chain.model.classes)
        count = len(rows.seed)
        parts.append(chain.draw(embedding[None].repeat(count, 0), ids.repeat(count, 0), rows))
    return np.concatenate(parts)


class Index:
    """Fingerprints of candidates, drawn when they are first asked for, and kept in a folder if given."""

    def __init__(self, chain: LocalChain, settings: Candidates, folder: Path | None = None) -> None:
        self._chain, self.settings, self._folder = chain, settings, folder
        self.drawn = 0  # candidates that no file held
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RequestError("index", f"{folder} cannot be written ({error.strerror})") from None

    def blocks(self, embedding: F32) -> Iterator[tuple[I64, I64, I8]]:
        """Seeds, samples [M] and fingerprints [M, 112] of one instance, BLOCK candidates at a time."""
        seeds, samples = self.settings.pairs()
        for start in range(0, len(seeds), BLOCK):
            chosen = slice(start, start + BLOCK)
            yield seeds[chosen], samples[chosen], self._block(embedding, seeds[chosen], samples[chosen])

    def _block(self, embedding: F32, seeds: I64, samples: I64) -> I8:
        path = None if self._folder is None else self.path(embedding, seeds, samples)
        expected = (len(seeds), COARSE.width)
        if path is not None and path.exists():
            try:
                held = read_npy(files.read_bounded(path, 1 << 24), path.name)
                if held.dtype == np.uint8 and held.shape == expected:
                    return held.view(np.int8)
            except BundleError:
                pass  # damaged: drawn anew
        pictures = draw(self._chain, embedding, self.settings, seeds, samples)
        self.drawn += len(seeds)
        fingerprints = fingerprint(pictures)
        if path is not None:
            with files.atomic_file(path) as partial, partial.open("wb") as file:
                np.save(file, fingerprints.view(np.uint8), allow_pickle=False)  # what read_npy reads
        return fingerprints

    def path(self, embedding: F32, seeds: I64, samples: I64) -> Path:
        """The file of these candidates, in an index with a folder."""
        assert self._folder is not None
        return self._folder / f"{self._name(embedding, seeds, samples)}.npy"

    def _name(self, embedding: F32, seeds: I64, samples: I64) -> str:
        source, settings = self._chain.source, self.settings
        bank = "" if settings.condition == "query" else source.bank
        told = [source.generator, bank, repr(settings.truncation), settings.condition, settings.label]
        content = json.dumps(told).encode() + np.ascontiguousarray(embedding, "<f4").tobytes()
        content += (
            np.ascontiguousarray(seeds, "<i8").tobytes() + np.ascontiguousarray(samples, "<i8").tobytes()
        )
        return hashlib.sha256(content).hexdigest()[:40]


def fingerprint(pictures: U8) -> I8:
    """Fingerprints [N, 112] of pictures [N, H, W, 3]."""
    rounded = np.rint(features(grey(pictures), COARSE) * _SCALE)
    quantised: I8 = np.ascontiguousarray(np.clip(rounded, -127, 127).astype(np.int8))
    return quantised


def search(
    picture: U8,
    embeddings: F32,
    index: Index,
    enough: Callable[[Candidate], bool],
    progress: Callable[[int, int, int], None] = lambda done, of, drawn: None,
) -> list[Candidate]:
    """The candidates most like a picture [H, W, 3], best first, of query embeddings [I, D] in this order.

    Stops early when `enough` says so of the best after an instance. Raises RequestError for more candidates
    than a search should have.
    """
    total = len(embeddings) * index.settings.count
    if total > MAX_CANDIDATES:
        raise RequestError("seeds", f"{total} candidates, at most {MAX_CANDIDATES} are searched")
    grids = [grey(picture[None]), grey(np.ascontiguousarray(picture[None, :, ::-1]))]
    seen = [(view, mirrored) for mirrored in (False, True) for view in views()]
    queries = np.concatenate([features(grids[mirrored], COARSE, view) for view, mirrored in seen]) / _SCALE
    best: list[tuple[float, int, int, int, int]] = []
    for instance, embedding in enumerate(embeddings):
        for seeds, samples, fingerprints in index.blocks(embedding):
            cosines = queries @ fingerprints.astype(np.float32).T  # [views, M]
            highest = cosines.max(axis=0)
            for row in np.argpartition(highest, -min(KEPT, len(seeds)))[-KEPT:]:
                view = int(
                    cosines[:, row].argmax()
                )  # of few: for all of them it takes longer than the product
                entry = (float(highest[row]), view, instance, int(seeds[row]), int(samples[row]))
                heapq.heappush(best, entry)
            best = heapq.nlargest(KEPT, best)
            heapq.heapify(best)
        progress(instance + 1, len(embeddings), index.drawn)
        if enough(_candidate(max(best), seen)):
            break
    return [_candidate(entry, seen) for entry in sorted(best, reverse=True)]


def _candidate(entry: tuple[float, int, int, int, int], seen: list[tuple[View, bool]]) -> Candidate:
    cosine, view, instance, seed, sample = entry
    return Candidate(instance, seed, sample, *seen[view], cosine)
