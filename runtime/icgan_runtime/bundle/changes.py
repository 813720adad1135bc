"""Changes of a bank as records in a log: what was added and removed since the bank was written.

Each record is whole or not there: it ends in the SHA-256 of the one before and of itself, which names the
state of the bank after it (docs/format.md). Logs that keep records are in change_log.py and shared_log.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.strict_json import digest, from_json, to_json
from icgan_runtime.errors import BundleError
from icgan_runtime.identity import FileEntry

LOG_NAME = "bank/changes.log"  # in a bundle; not in its manifest, for it changes
MOST_BYTES = 256 << 20  # of a record
MOST_IDS = (1 << 63) - 1
_BANK = "bank/"
_INDEX = "bank/index"

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class State:
    """What a bank holds at one time: the number of changes before it, and a hash of all of them."""

    number: int
    digest: str  # 64 hex digits

    def __str__(self) -> str:
        return f"{self.number}-{self.digest[:16]}"


@dataclass(frozen=True)
class Base:
    """Where the bank of a bundle stands in its history."""

    lineage: str  # the digest of its first state, which all its later ones share
    number: int
    digest: str
    next_id: int  # of the next instance: above all that were ever given

    @property
    def state(self) -> State:
        """The state of the bank as it is stored."""
        return State(self.number, self.digest)


@dataclass(frozen=True, eq=False)
class Changes:
    """Instances that come, and ids of those that go."""

    ids: I64  # [n], rising
    embeddings: F32  # [n, D], unit rows
    labels: I64 | None  # [n]
    names: tuple[str, ...] | None  # [n]
    thumbnails: U8 | None  # [n, T, T, 3]
    removed: I64  # [m]

    def __len__(self) -> int:
        return len(self.ids) + len(self.removed)


@dataclass(frozen=True, eq=False)
class Record:
    """Changes, and the state that they lead to."""

    state: State
    changes: Changes


@dataclass(frozen=True)
class Shape:
    """What the rows of one bank look like."""

    embedding_dim: int
    labelled: bool
    thumbnail_size: int | None


@dataclass(frozen=True)
class _Head:
    add: tuple[int, ...]
    remove: tuple[int, ...]
    labels: tuple[int, ...] | None
    names: tuple[str, ...] | None


class CompactedError(BundleError):
    """The log begins after the state that its changes are wanted from."""


def base_of(listed: Mapping[str, FileEntry], provenance: Mapping[str, Any], last_id: int) -> Base:
    """Where a bundle's bank stands: as its compaction wrote down, or at the start of a history of its own."""
    match provenance.get("bank"):
        case {
            "history": {
                "lineage": str(lineage),
                "number": int(number),
                "digest": str(end),
                "next_id": int(next_id),
            }
        }:
            return Base(lineage, number, end, max(next_id, last_id + 1))
    stored = {
        name: entry.sha256
        for name, entry in listed.items()
        if name.startswith(_BANK) and not name.startswith(_INDEX)
    }
    first = digest(stored)
    return Base(first, 0, first, last_id + 1)


def pack(changes: Changes) -> bytes:
    """Changes as the body of a record: a line of JSON, then embeddings and thumbnails as they are."""
    head = _Head(
        tuple(changes.ids.tolist()),
        tuple(changes.removed.tolist()),
        None if changes.labels is None else tuple(changes.labels.tolist()),
        changes.names,
    )
    parts = [json.dumps(to_json(head), separators=(",", ":")).encode(), b"\n"]
    parts.append(np.ascontiguousarray(changes.embeddings, "<f4").tobytes())
    if changes.thumbnails is not None:
        parts.append(np.ascontiguousarray(changes.thumbnails).tobytes())
    return b"".join(parts)


def following(state: State, body: bytes, changed: int) -> State:
    """The state after a record with this body."""
    return State(state.number + changed, hashlib.sha256(bytes.fromhex(state.digest) + body).hexdigest())


def unpack(body: bytes, shape: Shape) -> Changes:
    """The inverse of `pack`, for a bank of this shape; anybody may have written it. Raises BundleError."""
    line, _, rest = body.partition(b"\n")
    try:
        head: _Head = from_json(_Head, json.loads(line), "record")
        ids, removed = np.array(head.add, np.int64), np.array(head.remove, np.int64)
        labels = None if head.labels is None else np.array(head.labels, np.int64)
    except (ValueError, OverflowError, RecursionError) as error:
        raise BundleError(LOG_NAME, f"holds no record of changes ({error})"[:200]) from None
    n, side = len(ids), shape.thumbnail_size or 0
    embeddings, thumbnails = n * shape.embedding_dim * 4, n * side * side * 3
    lengths = [n if each is None else len(each) for each in (labels, head.names)]
    if len(rest) != embeddings + thumbnails or lengths != [n, n] or shape.labelled != (labels is not None):
        raise BundleError(LOG_NAME, "holds a record of another bank: its arrays do not fit")
    return Changes(
        ids,
        np.frombuffer(rest, "<f4", n * shape.embedding_dim).reshape(n, shape.embedding_dim),
        labels,
        head.names,
        np.frombuffer(rest, np.uint8, offset=embeddings).reshape(n, side, side, 3) if side else None,
        removed,
    )
