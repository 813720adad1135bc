"""What a picture file says of its own making: which bundle drew it, from which seed, with which settings.

A claim is small and holds no picture, and no embedding unless that is asked for. It need not be believed:
whoever doubts it draws the picture again (prove.py).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from icgan_runtime.bundle.strict_json import LATER, from_json, to_json
from icgan_runtime.errors import RequestError
from icgan_runtime.rows import CONDITIONS

VERSION = 1
MAX_BYTES = 128 << 10  # of a claim as JSON; an embedding of 4,096 numbers has some 80 kB
EMBEDDING = ("none", "hash", "whole")


def check_detail(embedding: str) -> None:
    """Raise RequestError unless `embedding`, what a file says of the query's, is one of EMBEDDING."""
    if embedding not in EMBEDDING:
        raise RequestError("embedding", f"{embedding!r}, expected one of {', '.join(EMBEDDING)}")


@dataclass(frozen=True)
class Source:
    """What drew the pictures of a result, as far as it is known where they arrive."""

    name: str
    version: str
    identity: str  # SHA-256 of the manifest's model section
    generator: str | None = None  # SHA-256 of the graph's file; a server keeps it to itself
    bank: str | None = None  # SHA-256 of the stored embeddings
    precision: str | None = None
    backend: str | None = None
    # of a bank that has changed since it was exported, as its log names it
    state: str | None = field(default=None, metadata={LATER: True})


@dataclass(frozen=True)
class Sheet:
    """How the pictures of a file lie: `columns` in a row, `gap` pixels apart, `left` pixels from the edge."""

    columns: int
    gap: int
    left: int
    strips: int = 1  # one below the other, each with the samples of a query picture of its own
    caption: int = field(default=0, metadata={LATER: True})  # pixels of words under each strip


SINGLE = Sheet(columns=1, gap=0, left=0)


@dataclass(frozen=True)
class Latent:
    """What an image was drawn from that no seed gives: it was searched for, or lies on a path."""

    noise: tuple[float, ...]  # [dim_z], each exactly a float32
    weights: tuple[float, ...]  # of the queries, in their order, whose mixture was followed


@dataclass(frozen=True)
class Claim:
    """The origin of the pictures in one file: samples first .. first + n − 1 of a seed, if no others."""

    version: int
    source: Source
    seed: int
    first: int
    n: int
    truncation: float | None  # None: untruncated
    condition: str
    label: int | None  # None: the instance's own
    sheet: Sheet
    embedding_sha256: str | None  # of the query's embedding as float32, little-endian
    embedding: tuple[float, ...] | None
    # where they are not consecutive: [n], the best of many
    samples: tuple[int, ...] | None = field(default=None, metadata={LATER: True})
    # [n], instead of seed and samples; the seed is that of the search then
    latents: tuple[Latent, ...] | None = field(default=None, metadata={LATER: True})
    # each follows an instance that its seed and sample draw from the bundle's prior
    prior: bool = field(default=False, metadata={LATER: True})

    def to_text(self) -> str:
        """The claim as JSON, on one line."""
        return json.dumps(to_json(self), separators=(",", ":"))


def read_claim(text: str) -> Claim:
    """A claim from JSON that anybody may have written. Raises RequestError unless every value is possible."""
    if len(text) > MAX_BYTES:
        raise RequestError("claim", f"{len(text)} characters, at most {MAX_BYTES} are read")
    try:
        claim: Claim = from_json(Claim, json.loads(text, parse_constant=_refuse), "claim")
    except (ValueError, RecursionError) as error:
        raise RequestError("claim", f"not one that this version reads ({error})"[:200]) from None
    if claim.version != VERSION:
        raise RequestError("claim", f"version {claim.version}, this program reads {VERSION}")
    sheet = claim.sheet
    bounds = (
        (claim.n, 1, 10_000),
        (claim.seed, 0, 2**63 - 1),
        (claim.first, 0, 2**63 - 10_001),
        (claim.label or 0, 0, 2**31),
        (sheet.columns, 1, 10_000),
        (sheet.gap, 0, 64),
        (sheet.left, 0, 10_000),
        (sheet.strips, 1, 1000),
        (sheet.caption, 0, 256),
    )
    truncated = claim.truncation is None or 0 < claim.truncation <= 1
    unit = claim.embedding is None or all(abs(value) <= 1.01 for value in claim.embedding)
    known = claim.condition in CONDITIONS
    sound = truncated and unit and known and _are_possible(claim)
    if not (sound and all(low <= value <= high for value, low, high in bounds)):
        raise RequestError("claim", "holds a value that no picture was drawn with")
    return claim


def _are_possible(claim: Claim) -> bool:
    """Whether there is a sample, or a latent, for each picture, within its bounds."""
    samples, latents = claim.samples, claim.latents
    if samples is not None and (len(samples) != claim.n or not 0 <= min(samples) <= max(samples) < 2**63):
        return False
    if latents is None:
        return True
    noise = all(abs(value) <= 100 for latent in latents for value in latent.noise)
    weights = all(0 <= value <= 1.01 for latent in latents for value in latent.weights)
    shapes = {(len(latent.noise), len(latent.weights)) for latent in latents}
    return len(latents) == claim.n and len(shapes) == 1 and noise and weights


def embedding_hash(embedding: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    """SHA-256 of an embedding [D] as float32, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(embedding, "<f4").tobytes()).hexdigest()


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")
