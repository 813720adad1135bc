"""The log of a bank's changes as a file beside the bank, for one machine: append-only, locked by its writers.

Writers hold a lock on the file; readers need none, for a record that is not whole ends in no hash of its own.
A compaction puts another file in its place. Whoever has waited for the lock of the old one finds that out by
the file's number (inode), and begins again.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Protocol

from icgan_runtime.bundle.changes import (
    LOG_NAME,
    MOST_BYTES,
    Base,
    Changes,
    CompactedError,
    Record,
    Shape,
    State,
    following,
    pack,
    unpack,
)
from icgan_runtime.bundle.strict_json import parse, to_json
from icgan_runtime.errors import BindingError, BundleError, RequestError

FORMAT = "icgan-changes"
SCHEMA_VERSION = 1
MAX_HEADER_BYTES = 4096
NONE = (0, 0)
_LENGTH = struct.Struct("<II")  # of the body, and the CRC-32 of those four bytes
_DIGEST_BYTES = 32

Make = Callable[[list[Record]], Changes]


class ChangeLog(Protocol):
    """Where the changes of one bank are kept. Each caller of `read` has a log of its own."""

    def read(self, after: State) -> list[Record]:
        """The records after a state, none where there is nothing new.

        Raises CompactedError where some of them are gone, BundleError for a log that is damaged or another
        bank's, UnavailableError where it cannot be reached.
        """

    def append(self, after: State, make: Make) -> State:
        """Add what `make` makes, given the records that others wrote after the state `after`.

        Nobody else writes meanwhile. On return the record is on the disk; the state is that after it. What
        `make` raises leaves nothing behind. Raises as `read`, and RequestError where it cannot be written.
        """

    def forget(self, until: State) -> None:
        """Take away the records up to a state, which the bank holds."""

    def close(self) -> None:
        """Let go of it."""


class FileLog:
    """The log of the bundle in the folder `root`, whose bank begins at `base`."""

    def __init__(self, root: Path, base: Base, shape: Shape) -> None:
        self.path = root / LOG_NAME
        self._base, self._shape = base, shape
        self._number = NONE  # device and inode of the file that was read
        self._end = 0  # where the next record begins
        self._state = base.state  # before that
        self._size = 0  # of a file that is read to its end

    def read(self, after: State) -> list[Record]:
        try:
            return self._read(after)
        except BundleError:
            self.close()  # the next one begins anew
            raise

    def _read(self, after: State) -> list[Record]:
        try:
            now = os.stat(self.path)
            if (now.st_dev, now.st_ino, now.st_size) == (*self._number, self._size):
                return []
            with self.path.open("rb", buffering=0) as file:
                return self._news(file, after)
        except FileNotFoundError:
            if self._number != NONE or after != self._base.state:
                raise BundleError(LOG_NAME, "is gone: the bank's changes cannot be followed") from None
            return []

    def _news(self, file: FileIO, after: State) -> list[Record]:
        held = os.fstat(file.fileno())
        if (held.st_dev, held.st_ino) != self._number and not self._begun(file, held):
            return []
        if self._state.number > after.number:
            raise CompactedError(LOG_NAME, f"begins at state {self._state}, after {after}: compacted since")
        found = []
        while True:
            if self._state.number == after.number and self._state != after:
                raise BindingError(LOG_NAME, f"has the state {self._state}, {after} was read before")
            record = self._next(file.fileno(), held.st_size)
            if record is None:
                break
            if record.state.number > after.number:
                found.append(record)
        if self._state.number < after.number:
            raise BindingError(LOG_NAME, f"ends at state {self._state}, {after} was read before")
        self._size = held.st_size if self._end == held.st_size else -1
        return found

    def append(self, after: State, make: Make) -> State:
        with self.locked() as descriptor:
            try:
                changes = make(self.read(after))
            except BaseException:
                if not os.fstat(descriptor).st_size:  # a log that was only begun for this
                    self.path.unlink()
                raise
            try:
                if b"\n" not in os.pread(descriptor, MAX_HEADER_BYTES, 0):
                    _begin(descriptor, self._base)
                    sync_folder(self.path.parent)
                    self.read(after)
                record, state = frame(self._state, changes)
                os.ftruncate(descriptor, self._end)  # what a kill left half written was promised to nobody
                _write(descriptor, record, self._end)
                os.fsync(descriptor)
            except OSError as error:
                os.ftruncate(descriptor, self._end)
                if not self._end:  # a log that was only begun for this
                    self.path.unlink()
                raise RequestError("bundle", f"{self.path} cannot be written ({error.strerror})") from None
            return state

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Alone among the writers of the log, which may be an empty file: its descriptor."""
        try:
            descriptor = self._lock()
        except OSError as error:
            raise RequestError("bundle", f"{self.path} cannot be written ({error.strerror})") from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def forget(self, until: State) -> None:
        """A file is written anew with its bank (banks/compact.py)."""

    def close(self) -> None:
        self._number = NONE  # read from its beginning, should it be read again

    def _lock(self) -> int:
        import fcntl  # not on Windows, where banks do not change

        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                held = os.fstat(descriptor)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(held, os.stat(self.path)):
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # of a file that was replaced meanwhile

    def _begun(self, file: FileIO, held: os.stat_result) -> bool:
        """Read the header of another file than before; whether it has one already."""
        header, newline, _ = file.read(MAX_HEADER_BYTES).partition(b"\n")
        if not newline:
            if len(header) == MAX_HEADER_BYTES:
                raise BundleError(LOG_NAME, "is no log of changes")
            return False
        begins: Base = parse(Base, header, LOG_NAME, FORMAT, SCHEMA_VERSION)
        if begins.lineage != self._base.lineage:
            raise BindingError(LOG_NAME, "is the log of another bank: take it away, or the bank back")
        self._number = (held.st_dev, held.st_ino)
        self._end, self._state = len(header) + 1, begins.state
        return True

    def _next(self, descriptor: int, size: int) -> Record | None:
        """The record at `_end`, None where there is no whole one. Raises BundleError for damage."""
        start = self._end
        head = os.pread(descriptor, _LENGTH.size, start)
        if len(head) < _LENGTH.size:
            return None
        length, check = _LENGTH.unpack(head)
        if zlib.crc32(head[:4]) != check or length > MOST_BYTES:
            if not any(os.pread(descriptor, MOST_BYTES, start)):
                return None  # a power cut left room without what belongs there
            raise BundleError(LOG_NAME, f"is damaged at byte {start}: take it from a backup")
        end = start + _LENGTH.size + length + _DIGEST_BYTES
        if end > size:
            return None
        body = os.pread(descriptor, length, start + _LENGTH.size)
        said = os.pread(descriptor, _DIGEST_BYTES, end - _DIGEST_BYTES).hex()
        if following(self._state, body, 0).digest != said:
            if end == size:
                return None
            raise BundleError(LOG_NAME, f"is damaged at byte {start}: take it from a backup")
        changes = unpack(body, self._shape)
        self._end, self._state = end, State(self._state.number + len(changes), said)
        return Record(self._state, changes)


def frame_body(state: State, changes: Changes) -> tuple[bytes, State]:
    """Changes after `state` as the body of a record, and the state they lead to. Raises RequestError."""
    body = pack(changes)
    if len(body) > MOST_BYTES:
        raise RequestError("pictures", f"{len(body)} bytes in one record, at most {MOST_BYTES}")
    return body, following(state, body, len(changes))


def frame(state: State, changes: Changes) -> tuple[bytes, State]:
    """The same as the bytes of a record."""
    body, after = frame_body(state, changes)
    length = struct.pack("<I", len(body))
    check = struct.pack("<I", zlib.crc32(length))
    return b"".join((length, check, body, bytes.fromhex(after.digest))), after


def write_log(path: Path, base: Base, later: Iterable[Changes]) -> None:
    """A new log that begins at `base` and holds these changes, on the disk before it returns."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        _begin(descriptor, base)
        state, place = base.state, os.fstat(descriptor).st_size
        for changes in later:
            record, state = frame(state, changes)
            _write(descriptor, record, place)
            place += len(record)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _begin(descriptor: int, base: Base) -> None:
    about = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **to_json(base)}
    os.ftruncate(descriptor, 0)
    _write(descriptor, json.dumps(about, separators=(",", ":")).encode() + b"\n", 0)
    os.fsync(descriptor)


def _write(descriptor: int, data: bytes, place: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, place)
        left, place = left[written:], place + written
