"""Which file, and which encoder: the two records that bundles and prepared data sets hold alike as JSON."""

from __future__ import annotations

from dataclasses import dataclass

# How a picture becomes square before an encoder: its middle, or all of it, squeezed.
CENTRE, SQUEEZE = CROPS = ("centre-short-side", "squeeze")


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and hex SHA-256 of one file, under whose name it is listed."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class EncoderIdentity:
    """Which encoder made embeddings, which mean nothing to a generator of another one."""

    name: str
    sha256: str  # of its weights file
    input_size: int  # pixels, the side its network sees; a graph enlarges from Preprocessing.size inside
    embedding_dim: int
