"""Which log keeps the changes of a bank: a file beside it on one machine, a database for several servers."""

from __future__ import annotations

from pathlib import Path

from icgan_runtime.bundle.change_log import ChangeLog, FileLog
from icgan_runtime.bundle.changes import Base, Shape
from icgan_runtime.errors import MissingExtraError, RequestError

SCHEMES = ("postgresql://", "postgres://")


def is_address(changes: str) -> bool:
    """Whether changes are kept in a database."""
    return changes.startswith(SCHEMES)


def open_log(changes: str, root: Path, base: Base, shape: Shape) -> ChangeLog:
    """The log at `changes`: the address of a PostgreSQL database, a bundle's folder, or "" for `root` itself.

    Raises RequestError for another address, MissingExtraError without psycopg.
    """
    if is_address(changes):
        try:
            from icgan_runtime.bundle.shared_log import SharedLog
        except ImportError:
            raise MissingExtraError("psycopg", "postgres") from None
        return SharedLog(changes, base, shape)
    if "://" in changes:
        raise RequestError("changes", f"{changes!r}, expected postgresql://HOST/DATABASE")
    return FileLog(Path(changes) if changes else root, base, shape)
