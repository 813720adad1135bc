"""WebDataset: tar shards in which neighbours of one key are a sample, as the library of that name writes.

Pictures are read where they lie in the shards; a label is the whole number in `.cls`, or `label` in `.json`.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.files import PIECE
from icgan_runtime.identity import CENTRE
from icgan_runtime.images import SUFFIXES
from icgan_training.data.containers import LOOKED_AT, RECOMPRESSED, look_recompressed
from icgan_training.data.remote import RemoteFile
from icgan_training.data.transforms import decode_picture
from icgan_training.errors import DataError

MAX_LABEL_BYTES = 1 << 16
NO_LABELS = (
    "the pictures lie in folders, which are no labels in a tar file: there a label is a .cls or .json beside "
    "each picture. Unpack it, and the folders are the labels"
)


class Shards:
    """The pictures of tar shards, by where they begin."""

    def __init__(self, shards: Sequence[Path | RemoteFile]) -> None:
        self.shards = shards
        places: list[tuple[int, int, int, int]] = []
        labels: list[int | None] = []
        for number, shard in enumerate(shards):
            for head, place, size, label in _samples(shard):
                places.append((number, head, place, size))
                labels.append(label)
        self.places = np.array(places, np.int64).reshape(-1, 4)
        self.labels = _all_or_none(labels, self)
        files = (self._bytes(row) for row in range(len(self)))
        self.notes = [RECOMPRESSED] if look_recompressed(islice(files, LOOKED_AT)) else []
        if self.labels is None and len(self) and _folder(self.called(0)) != _folder(self.called(-1)):
            self.notes.append(NO_LABELS)

    def __len__(self) -> int:
        return len(self.places)

    def name(self, row: int) -> str:
        """The shard and the member."""
        return f"{self.shards[self.places[row][0]]}: {self.called(row)}"

    def called(self, row: int) -> str:
        """The member, by its headers: a long name has one of its own before."""
        number, head, *_ = self.places[row]
        with self.shards[number].open("rb") as file:
            file.seek(head)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                member = archive.next()
        return member.name if member else ""

    def read(self, row: int, resolution: int, crop: str = CENTRE) -> NDArray[np.uint8]:
        """One picture [R, R, 3]; raises `DataError` naming its member."""
        return decode_picture(self._bytes(row), self.name(row), resolution, crop)

    def identity(self) -> Iterator[bytes]:
        """Names of shards and places in them."""
        yield from (shard.name.encode("utf-8", "surrogateescape") for shard in self.shards)
        yield self.places.tobytes()

    def _bytes(self, row: int) -> bytes:
        number, _, place, size = map(int, self.places[row])
        shard = self.shards[number]
        if isinstance(shard, RemoteFile):
            return shard.piece(place, size)
        with shard.open("rb") as file:
            file.seek(place)
            return file.read(size)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _samples(shard: Path | RemoteFile) -> Iterator[tuple[int, int, int, int | None]]:
    """Where each sample's picture has its headers and begins, its size, and its label."""
    sample: dict[str, tuple[int, int, int]] = {}
    label: int | None = None
    now = None
    for key, ending, member, content in _members(shard):
        if key != now:
            if sample:
                yield (*_only(sample, now, shard), label)
            sample, label, now = {}, None, key
        if f".{ending.rpartition('.')[2]}" in SUFFIXES:
            sample[ending] = (member.offset, member.offset_data, member.size)
        elif content is not None:
            label = _label(ending, content, f"{shard}: {member.name}", label)
    if sample:
        yield (*_only(sample, now, shard), label)


def _members(shard: Path | RemoteFile) -> Iterator[tuple[str, str, tarfile.TarInfo, bytes | None]]:
    """Key, ending, member, and the content of what may hold a label."""
    try:
        with shard.open("rb") as whole, tarfile.open(fileobj=whole, mode="r:") as archive:
            while member := archive.next():
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not member.isfile() or not stem or stem.startswith("__"):
                    continue
                ending = ending.lower()
                holds = ending in ("cls", "json") and member.size <= MAX_LABEL_BYTES
                file = archive.extractfile(member) if holds else None
                yield f"{folder}/{stem}", ending, member, file.read() if file else None
            _check_end(shard, archive.offset)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{shard} is not a whole, uncompressed tar file ({error})") from error


def _check_end(shard: Path | RemoteFile, end: int) -> None:
    """Raise ReadError unless zeros alone follow, and some: tarfile takes a damaged header for the end."""
    with shard.open("rb") as file:
        file.seek(end)
        zeros = 0
        while piece := file.read(PIECE):
            if piece.strip(b"\0"):
                raise tarfile.ReadError(f"after byte {end} damaged, or followed by another tar")
            zeros += len(piece)
    if not zeros:
        raise tarfile.ReadError(f"it ends without a mark at byte {end}")


def _only(
    sample: dict[str, tuple[int, int, int]], key: str | None, shard: Path | RemoteFile
) -> tuple[int, int, int]:
    if len(sample) > 1:
        raise DataError(f"{shard}: {key} has several pictures ({', '.join(sample)}): keep one of each sample")
    return next(iter(sample.values()))


def _label(ending: str, content: bytes, name: str, before: int | None) -> int | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise DataError(f"{name} is no JSON" if ending == "json" else f"{name} is no whole number") from None
    if ending == "json":
        found = found.get("label", before) if isinstance(found, dict) else before
    if found is not None and (not isinstance(found, int) or isinstance(found, bool)):
        raise DataError(f"{name}: label {found!r} is no whole number")
    return found


def _all_or_none(labels: list[int | None], shards: Shards) -> list[int] | None:
    given = [label for label in labels if label is not None]
    if given and len(given) < len(labels):
        raise DataError(f"{shards.name(labels.index(None))}: no label, though others have one")
    return given or None
