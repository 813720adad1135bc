"""Signing in a process of its own, so that those who make picture files cannot read the key.

A socket of the file system takes a file and its claim, and gives the signed file back. What it signs it puts
together itself: a manifest that says "made by a trained algorithm". Whoever reaches the socket can have that
said of any picture, and nothing else signed; he cannot read the key. What is said over it: remote.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from icgan_runtime.errors import RequestError
from icgan_runtime.marks.claim import read_claim
from icgan_runtime.marks.mark import Signs, find_signer
from icgan_runtime.marks.remote import MAX_HEADER_BYTES, PATIENCE_S

KINDS = ("PNG", "JPEG", "WEBP")
MAX_FILE_BYTES = 64 << 20
_PR_SET_DUMPABLE = 4  # of prctl(2)


@contextmanager
def signing(key: str | Path, path: Path) -> Iterator[None]:
    """Sign at the socket `path` while the block runs; the key is read once, before.

    From then on other processes of the same user can neither trace this one nor read its memory, its
    environment or what it has open (Linux: prctl). Raises RequestError for a key that cannot sign or a path
    that cannot be a socket, MissingExtraError without c2pa.
    """
    hide_from_others()
    signer = find_signer(key)
    assert signer is not None
    with contextlib.suppress(FileNotFoundError):
        if path.is_socket():  # of one that was killed
            path.unlink()
    try:
        server = _Server(str(path), _Handler)
    except OSError as error:
        reason = error.strerror or str(error)  # a path too long for a socket has no number
        raise RequestError("socket", f"{path} cannot be listened at ({reason})") from None
    server.signer = signer
    os.chmod(path, 0o660)
    thread = threading.Thread(target=server.serve_forever, name="signer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        path.unlink(missing_ok=True)


def hide_from_others() -> None:
    """Keep other processes of this user out of this one's memory, environment and open files (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128
    signer: Signs

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


class _Handler(socketserver.StreamRequestHandler):
    timeout = PATIENCE_S

    def handle(self) -> None:
        try:
            signed = self._sign()
        except RequestError as error:
            self.wfile.write(json.dumps({"error": str(error)}).encode() + b"\n")
            return
        self.wfile.write(json.dumps({"bytes": len(signed)}).encode() + b"\n" + signed)

    def _sign(self) -> bytes:
        try:
            header = json.loads(self.rfile.readline(MAX_HEADER_BYTES))
            kind, size, text = header["kind"], header["bytes"], header["claim"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RequestError("request", "not a file to sign") from None
        if kind not in KINDS or not isinstance(size, int) or not 0 < size <= MAX_FILE_BYTES:
            raise RequestError("request", f"{kind!r} of {size!r} bytes, at most {MAX_FILE_BYTES} are signed")
        claim = None if text is None else read_claim(str(text))
        data = self.rfile.read(size)
        return cast(_Server, self.server).signer.sign(data, kind, claim)
