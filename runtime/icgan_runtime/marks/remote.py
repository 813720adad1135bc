"""Having files signed by another process (signing.py), over a socket of the file system.

-> {"kind": "PNG", "claim": text or null, "bytes": n}, a line, and n bytes
<- {"bytes": n}, a line, and n bytes; or {"error": reason}, a line
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import BinaryIO

from icgan_runtime.errors import UnavailableError
from icgan_runtime.marks.claim import MAX_BYTES, Claim

MAX_HEADER_BYTES = 2 * MAX_BYTES + 1024  # a claim's quotes are escaped once more
PATIENCE_S = 30


@dataclass(frozen=True)
class RemoteSigner:
    """Has files signed by the process behind a socket."""

    path: str

    def sign(self, data: bytes, kind: str, claim: Claim | None) -> bytes:
        """The file with a manifest in it. Raises UnavailableError where nobody signs."""
        asked = {"kind": kind, "claim": None if claim is None else claim.to_text(), "bytes": len(data)}
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE_S)
                connection.connect(self.path)
                connection.sendall(json.dumps(asked).encode() + b"\n" + data)
                with connection.makefile("rb") as answer:
                    return _answered(answer)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnavailableError(f"no answer from the signer at {self.path} ({reason})") from None


def _answered(answer: BinaryIO) -> bytes:
    header = json.loads(answer.readline(MAX_HEADER_BYTES) or b"{}")
    if "error" in header:
        raise UnavailableError(f"the signer does not sign: {header['error']}")
    data = answer.read(int(header.get("bytes", 0)))
    if not data or len(data) != header["bytes"]:
        raise ValueError("the answer was cut short")
    return data
