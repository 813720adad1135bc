"""Secrets: files or mounted secrets, read once, never logged, and refused where everybody could read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from icgan_runtime.errors import RequestError

MAX_KEY_BYTES = 64 << 10
MIN_SECRET_BYTES = 16


def read_key_file(field: str, path: str | Path) -> bytes:
    """The bytes of a key file. Raises RequestError, which never shows them.

    A file that every user of the machine may read is refused: a key in it is nobody's.
    """
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise RequestError(field, f"{path} is no regular file")
            if os.name == "posix" and status.st_mode & stat.S_IROTH:
                raise RequestError(
                    field, f"{path} can be read by every user of this machine: chmod o-r {path}"
                )
            if status.st_size > MAX_KEY_BYTES:
                raise RequestError(field, f"{path} has {status.st_size} bytes, which no key has")
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise RequestError(field, f"{path} cannot be read ({error.strerror})") from None


def read_secret(field: str, path: str | Path) -> bytes:
    """The secret behind a key in the weights: at least 16 bytes that nobody can guess."""
    secret = read_key_file(field, path).strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise RequestError(
            field,
            f"{path} holds {len(secret)} bytes, at least {MIN_SECRET_BYTES} are needed: openssl rand -hex 32",
        )
    return secret
