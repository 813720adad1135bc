"""Marks of origin in picture files: written when a file is written, read when somebody asks.

With a signing key a C2PA manifest is written, without one unsigned XMP. Both say that a trained algorithm
made the picture, and carry its claim.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.bundle.strict_json import to_json
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.marks.claim import Claim
from icgan_runtime.marks.metadata import read_unsigned, xmp_packet

U8 = NDArray[np.uint8]

# Path of the PEM file with key and certificates, for programs that are not given one otherwise.
KEY_VARIABLE = "ICGAN_SIGN_KEY"
# Path of the socket of a process that signs (signing.py), for those that must not be able to read the key.
SOCKET_VARIABLE = "ICGAN_SIGN_SOCKET"


class Signs(Protocol):
    """What puts a signed manifest into files: a key in this process, or one in another."""

    def sign(self, data: bytes, kind: str, claim: Claim | None) -> bytes:
        """The file with a manifest in it; its pixels are the same to the last bit."""


@dataclass(frozen=True)
class Marks:
    """What a file says of itself."""

    claim: Claim | None
    kind: str  # "signed", "unsigned" or "none"
    generated: bool  # whether it is marked as made by a trained algorithm
    signature: dict[str, Any] | None  # state, signer and problems of a manifest
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, an embedding left out."""
        claim = (
            None
            if self.claim is None
            else {**to_json(self.claim), "embedding": self.claim.embedding is not None}
        )
        return {
            "kind": self.kind,
            "trained_algorithmic_media": self.generated,
            "signature": self.signature,
            "claim": claim,
        }


@dataclass(frozen=True)
class Mark:
    """What to write into a file of generated images."""

    claim: Claim | None  # None: only that it is generated
    sign_key: str | Path | None = None  # PEM file; None: as the environment says, and unsigned without

    def encode(self, image: U8, kind: str) -> bytes:
        """A picture [H, W, 3] as a marked file: PNG, JPEG or lossless WEBP, the pixels as without a mark."""
        signer = find_signer(self.sign_key)
        if signer is None:
            return images.encode(image, kind, xmp_packet(self.claim))
        return signer.sign(images.encode(image, kind), kind, self.claim)

    def encode_frames(self, frames: U8, frame_ms: int) -> bytes:
        """Pictures [n, H, W, 3] as a marked file: animated WEBP."""
        signer = find_signer(self.sign_key)
        if signer is None:
            return images.encode_frames(frames, frame_ms, xmp_packet(self.claim))
        return signer.sign(images.encode_frames(frames, frame_ms), "WEBP", self.claim)


def find_signer(key: str | Path | None = None) -> Signs | None:
    """The signer of a PEM file, or else behind ICGAN_SIGN_SOCKET, or of ICGAN_SIGN_KEY's file; None without.

    Raises RequestError for a key that cannot be used, MissingExtraError where signing is not installed.
    """
    if not key and (behind := os.environ.get(SOCKET_VARIABLE)):
        from icgan_runtime.marks.remote import RemoteSigner

        return RemoteSigner(behind)
    path = key or os.environ.get(KEY_VARIABLE)
    return None if not path else _signer(str(path), os.stat(path).st_mtime_ns if os.path.exists(path) else 0)


@lru_cache(maxsize=4)
def _signer(path: str, changed: int) -> Signs:
    try:
        from icgan_runtime.marks.signed import Signer
    except ImportError:
        raise MissingExtraError("c2pa-python", "origin") from None
    return Signer.read(path)


def read_marks(data: bytes, trusted: bytes | None = None) -> Marks:
    """The marks of a picture file; damaged ones are notes, not errors.

    `trusted`: PEM certificates of the authorities whose signatures count as Trusted.
    """
    notes: list[str] = []
    try:
        from icgan_runtime.marks import signed
    except ImportError:
        notes.append("C2PA manifests are not read: pip install 'icgan[origin]'")
    else:
        try:
            found = signed.read_signed(data, trusted)
        except RequestError as error:
            notes.append(str(error))
            found = None
        if found is not None:
            if found.state == "Invalid":
                notes.append(
                    f"the file was changed after signing, or its signature is void: {found.problems[0]}"
                    if found.problems
                    else "its signature is void"
                )
            signature = {"state": found.state, "signer": found.signer, "problems": list(found.problems)}
            return Marks(found.claim, "signed", found.created_by_algorithm, signature, tuple(notes))
    try:
        generated, claim = read_unsigned(data)
    except RequestError as error:
        return Marks(None, "none", False, None, (*notes, str(error)))
    return Marks(
        claim, "unsigned" if generated or claim is not None else "none", generated, None, tuple(notes)
    )
