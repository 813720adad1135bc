"""The log of a bank's changes in PostgreSQL, for several servers; the only file that imports psycopg.

The records are those of the file (changes.py), a row each. A row of `icgan_banks` is what writers lock, and
says to readers whether there is anything new.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from icgan_runtime.bundle.change_log import Make, frame_body
from icgan_runtime.bundle.changes import (
    Base,
    CompactedError,
    Record,
    Shape,
    State,
    following,
    unpack,
)
from icgan_runtime.errors import BindingError, BundleError, UnavailableError

WHERE = "the database of changes"
_TABLES = """
CREATE TABLE IF NOT EXISTS icgan_banks (
    lineage text PRIMARY KEY, first bigint NOT NULL, number bigint NOT NULL, digest text NOT NULL);
CREATE TABLE IF NOT EXISTS icgan_changes (
    lineage text NOT NULL, number bigint NOT NULL, digest text NOT NULL, body bytea NOT NULL,
    PRIMARY KEY (lineage, number));
ALTER TABLE icgan_changes ALTER COLUMN body SET STORAGE EXTERNAL;
"""
_MAKING = 0x6963676E  # a lock while tables are made, which IF NOT EXISTS alone does not keep apart
CONNECT_S = 5


class SharedLog:
    """The log of one bank in the database at `address`; a password is for PGPASSWORD or ~/.pgpass."""

    def __init__(self, address: str, base: Base, shape: Shape) -> None:
        self._address, self._base, self._shape = address, base, shape
        self._open_connection: psycopg.Connection[Any] | None = None

    def read(self, after: State) -> list[Record]:
        try:
            if self._open_connection is not None:
                with self._connection() as connection:
                    return self._read(connection, after, lock=False)
        except UnavailableError:  # idle connections are cut: once more with a new one
            pass
        with self._connection() as connection:
            return self._read(connection, after, lock=False)

    def append(self, after: State, make: Make) -> State:
        with self._connection() as connection, connection.transaction():
            connection.execute(
                "INSERT INTO icgan_banks VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (self._base.lineage, self._base.number, self._base.number, self._base.digest),
            )
            news = self._read(connection, after, lock=True)
            state = news[-1].state if news else after
            body, state = frame_body(state, make(news))
            connection.execute(
                "INSERT INTO icgan_changes VALUES (%s, %s, %s, %s)",
                (self._base.lineage, state.number, state.digest, body),
            )
            connection.execute(
                "UPDATE icgan_banks SET number = %s, digest = %s WHERE lineage = %s",
                (state.number, state.digest, self._base.lineage),
            )
        return state

    def forget(self, until: State) -> None:
        """Take away the records up to a state; who has not read them needs a bank that holds them."""
        with self._connection() as connection, connection.transaction():
            connection.execute(
                "DELETE FROM icgan_changes WHERE lineage = %s AND number <= %s",
                (self._base.lineage, until.number),
            )
            connection.execute(
                "UPDATE icgan_banks SET first = greatest(first, %s) WHERE lineage = %s",
                (until.number, self._base.lineage),
            )
        with self._connection() as connection:  # what is deleted is on the disk until then
            connection.execute("VACUUM FULL icgan_changes")

    def close(self) -> None:
        if self._open_connection is not None:
            self._open_connection.close()
        self._open_connection = None

    def _read(self, connection: psycopg.Connection[Any], after: State, lock: bool) -> list[Record]:
        lineage = self._base.lineage
        row = connection.execute(
            "SELECT first, number, digest FROM icgan_banks WHERE lineage = %s" + " FOR UPDATE" * lock,
            (lineage,),
        ).fetchone()
        if row is None or (row[1], row[2]) == (after.number, after.digest):
            if row is None and after != self._base.state:
                raise BundleError(WHERE, "has lost this bank's changes: take it from a backup")
            return []
        first, number, _ = row
        if first > after.number:
            raise CompactedError(WHERE, f"begins at change {first}, after state {after}: compacted since")
        if number <= after.number:
            raise BindingError(WHERE, f"has {number} changes of this bank, {after} was read before")
        rows = connection.execute(
            "SELECT digest, body FROM icgan_changes WHERE lineage = %s AND number > %s AND number <= %s "
            "ORDER BY number",
            (lineage, after.number, number),
        )
        found, state = [], after
        for digest, body in rows:
            changes = unpack(bytes(body), self._shape)
            state = following(state, bytes(body), len(changes))
            if state.digest != digest:
                raise BindingError(WHERE, f"change {state.number} does not follow state {after}")
            found.append(Record(state, changes))
        if state.number != number:
            raise CompactedError(WHERE, f"has no longer what follows state {after}: compacted since")
        return found

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        """The connection, made where there is none. UnavailableError where that is not possible."""
        try:
            if self._open_connection is None:
                self._open_connection = psycopg.connect(
                    self._address, autocommit=True, connect_timeout=CONNECT_S, client_encoding="utf8"
                )
                with self._open_connection.transaction():
                    self._open_connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
                    if self._open_connection.execute("SELECT to_regclass('icgan_changes')").fetchone() == (
                        None,
                    ):
                        self._open_connection.execute(_TABLES)
            yield self._open_connection
        except psycopg.Error as error:
            self.close()
            raise UnavailableError(f"{WHERE}: {' '.join(str(error).split())[:300]}") from None
