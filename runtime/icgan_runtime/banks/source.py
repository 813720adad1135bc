"""What a new bank is made of: pictures, a prepared data set, or embeddings."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icgan_runtime import files, images
from icgan_runtime.bundle import arrays
from icgan_runtime.console import Progress, tell
from icgan_runtime.errors import BundleError, DecodeError, RequestError
from icgan_runtime.images import U8
from icgan_runtime.names import ENDS, TEXT, Names
from icgan_runtime.pipeline import Pipeline
from icgan_runtime.request import embedding_rows
from icgan_runtime.synthesize import sources

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_AT_ONCE = 32
_ROUNDS = 12  # of k-means
_NAMES_BYTES = 1 << 30
_NOTE_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Found:
    """What a source holds, row by row."""

    ids: I64  # [M], rising
    embeddings: F32  # [M, D]
    labels: I64 | None  # [M], indices into class_names
    class_names: tuple[str, ...] | None
    names: Names | None
    thumbnails: U8 | None  # [M, T, T, 3]

    def part(self, rows: I64) -> Found:
        """Some of the rows."""
        return Found(
            self.ids[rows],
            np.ascontiguousarray(self.embeddings[rows]),
            None if self.labels is None else self.labels[rows],
            self.class_names,
            None if self.names is None else Names.of(self.names.pick(rows)),
            None if self.thumbnails is None else self.thumbnails[rows],
        )


def read(pipe: Pipeline, wanted: str, side: int, names_file: Path | None) -> Found:
    """All that `wanted` holds: a folder of pictures, a prepared data set, or a .npy of embeddings.

    side: of the thumbnails at most, 0 for none. names_file: names of embeddings, one a line.
    Raises RequestError.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return read_all(pipe, open_source(pipe, wanted, Path(scratch)), wanted, side, names_file)


def open_source(pipe: Pipeline, wanted: str, scratch: Path) -> sources.Source:
    """What `wanted` names, nothing of it embedded yet; `scratch` has to stay. Raises RequestError."""
    source = sources.open_source(wanted, pipe.chain, scratch, list_anew=True)
    if source.kind == sources.BANK:
        raise RequestError("from", "bank is what the bundle holds already: give a folder, data set or .npy")
    return source


def read_all(
    pipe: Pipeline, source: sources.Source, wanted: str, side: int, names_file: Path | None
) -> Found:
    """All that a source holds, which `wanted` named; otherwise as `read`."""
    if isinstance(source, sources.Pictures):
        return _of_pictures(pipe, source, side)
    assert isinstance(source, sources.Stored)
    path = Path(wanted)
    count = len(source)
    embeddings = embedding_rows(np.array(source.embeddings), pipe.model.embedding_dim)
    labels = None if source.labels is None else np.array(source.labels)
    names, thumbnails = _listed(names_file, count), None
    if (path / TEXT).exists():
        names = _stored_names(path, count)
    if side and (path / "images.npy").exists():
        pictures = arrays.map_npy(path / "images.npy", str(path / "images.npy"))
        thumbnails = np.stack([_reduced(picture, side) for picture in pictures])
    ids = np.arange(count) if source.ids is None else np.array(source.ids)
    return Found(ids, embeddings, labels, source.class_names, names, thumbnails)


def _of_pictures(pipe: Pipeline, source: sources.Pictures, side: int) -> Found:
    """Pictures, read and embedded some at a time; what cannot be read is left out, and said to be."""
    kept: list[int] = []
    embeddings: list[F32] = []
    thumbnails: list[U8] = []
    left_out: list[str] = []
    how = pipe.model.preprocessing
    all_names: list[str] = []
    with Progress("embed", "pictures", len(source)) as progress:
        for start in range(0, len(source), _AT_ONCE):
            rows = range(start, min(start + _AT_ONCE, len(source)))
            batch: list[images.Picture] = []
            for row, name in zip(rows, source.names(rows), strict=True):
                all_names.append(name)
                try:
                    batch.append(images.for_encoder(source.folder / name, how))
                    kept.append(row)
                except DecodeError as error:
                    left_out.append(error.problem)
            if batch:
                embeddings.append(pipe.embed(batch))
                if side:
                    thumbnails += [_reduced(np.asarray(each), side) for each in batch]
            progress.advance(len(rows))
    for problem in left_out:
        tell(f"left out of the bank: {problem}")
    if not kept:
        raise RequestError("from", f"none of the {len(source)} pictures of {source.folder} can be read")
    names = [all_names[row] for row in kept]
    return Found(
        np.array(kept, np.int64),
        np.concatenate(embeddings),
        source.labels(names),
        source.class_names,
        Names.of(names),
        np.stack(thumbnails) if thumbnails else None,
    )


def credit(folder: Path) -> tuple[str, str]:
    """Whose pictures a folder holds, and their licence, as dataset.json or source.json says; else "".

    Without those the first line of a LICENSE in it is the licence.
    """
    for note in ("dataset.json", "source.json"):
        try:
            about = json.loads(files.read_bounded(folder / note, _NOTE_BYTES))
            name, licence = about.get("source") or about.get("name") or "", about.get("licence") or ""
            return _line(str(name)), _line(str(licence))
        except (BundleError, ValueError, AttributeError, RecursionError):
            continue
    for name in ("LICENSE", "LICENCE", "LICENSE.txt", "LICENSE.md"):
        if (folder / name).is_file():
            return "", _line((folder / name).read_text("utf-8-sig", errors="replace").lstrip())
    return "", ""


def _line(text: str) -> str:
    """The first line of a text in printable letters, at most 200."""
    first = next(iter(text.splitlines()), "")
    return "".join(letter if letter.isprintable() else " " for letter in first).strip()[:200]


def _stored_names(folder: Path, count: int) -> Names:
    """Those of a prepared data set."""
    try:
        return Names(
            arrays.map_npy(folder / TEXT, str(folder / TEXT)),
            arrays.require(arrays.map_npy(folder / ENDS, ENDS), ENDS, "int64", (count,), "the data set"),
        )
    except (OSError, ValueError, BundleError) as error:
        raise RequestError("from", f"{folder / TEXT} cannot be read ({error})") from None


def _listed(path: Path | None, count: int) -> Names | None:
    """The names in a text file, one a line."""
    if path is None:
        return None
    try:
        lines = files.read_bounded(path, _NAMES_BYTES, str(path)).decode(errors="replace").splitlines()
    except BundleError as error:
        raise RequestError("names", str(error)) from None
    if len(lines) != count:
        raise RequestError("names", f"{path} has {len(lines)} lines for {count} embeddings")
    return Names.of(lines)


def _reduced(picture: U8, side: int) -> U8:
    """A picture [S, S, 3] at `side`, or as it is where it is no larger."""
    if picture.shape[0] <= side:
        return picture
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def covering(embeddings: F32, count: int) -> I64:
    """Rows that cover the embeddings [N, D]: those nearest to `count` centroids of k-means, ascending."""
    rng = np.random.default_rng(0)
    centroids = embeddings[np.sort(rng.choice(len(embeddings), count, replace=False))].copy()
    for _ in range(_ROUNDS):
        nearest = np.concatenate(
            [
                _closest(embeddings[start : start + 4096], centroids)
                for start in range(0, len(embeddings), 4096)
            ]
        )
        members = np.bincount(nearest, minlength=count)
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, embeddings)
        filled = members > 0
        centroids[filled] = sums[filled] / members[filled, None]
    chosen: set[int] = set()
    for centroid in centroids:
        distances = ((embeddings**2).sum(1)) - 2 * (embeddings @ centroid)
        chosen.add(next(int(row) for row in np.argsort(distances, kind="stable") if int(row) not in chosen))
    return np.array(sorted(chosen), np.int64)


def _closest(rows: F32, centroids: F32) -> I64:
    """Which centroid each row is nearest to."""
    found: I64 = ((centroids**2).sum(1)[None] - 2 * (rows @ centroids.T)).argmin(axis=1)
    return found
