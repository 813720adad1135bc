"""A log of what was generated: append-only lines, each holding the hash of the one before.

A line is a JSON object: number, time, the claim, the SHA-256 of the file, and the hash of the line before. It
holds no picture and no name, and no embedding. Whoever changes, removes or reorders a line breaks the chain
from there on; whoever cuts lines off the end does not, so keep the last hash elsewhere if that matters.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from icgan_runtime.bundle.strict_json import to_json
from icgan_runtime.errors import RequestError
from icgan_runtime.marks.claim import Claim

START = "0" * 64  # "the hash of the line before" of the first
MAX_LINE = 64 << 10


@dataclass(frozen=True)
class Report:
    """What a ledger holds: whole lines, and where the chain breaks."""

    lines: int
    last: str  # hash of the last line that fits
    broken: int | None = None  # number of the first line that does not
    problem: str = ""
    torn: bool = False  # the last line was cut short, as a kill does


def append(path: Path, claim: Claim, file: bytes) -> str:
    """Write a line for a file with this claim, and return its hash. Several processes may write at once.

    A line that an earlier process was killed in is cut off first: it was never promised to anybody. Raises
    RequestError where the file cannot be written or is no ledger.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as ledger, _locked(ledger):
            number, last = _tail(path, ledger)
            entry = {
                "number": number + 1,
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                "claim": to_json(replace(claim, embedding=None)),
                "sha256": hashlib.sha256(file).hexdigest(),
                "before": last,
            }
            line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
            ledger.write(line)
            ledger.flush()
            os.fsync(ledger.fileno())
            return hashlib.sha256(line).hexdigest()
    except OSError as error:
        raise RequestError("ledger", f"{path} cannot be written ({error.strerror})") from None


def verify(path: Path) -> Report:
    """Read every line and check that each holds the hash of the one before. Raises RequestError."""
    try:
        with path.open("rb") as ledger:
            number, last = 0, START
            while line := ledger.readline(MAX_LINE + 1):
                if not line.endswith(b"\n"):
                    if len(line) > MAX_LINE:
                        return Report(number, last, number + 1, f"longer than {MAX_LINE} bytes")
                    return Report(number, last, torn=True)
                problem = _problem(line, number + 1, last)
                if problem:
                    return Report(number, last, number + 1, problem)
                number, last = number + 1, hashlib.sha256(line).hexdigest()
            return Report(number, last)
    except OSError as error:
        raise RequestError("ledger", f"{path} cannot be read ({error.strerror})") from None


def _problem(line: bytes, number: int, last: str) -> str:
    try:
        entry = json.loads(line)
        said, before = entry["number"], entry["before"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "not a line of a ledger"
    if before != last:
        return "does not hold the hash of the line before: a line was changed, removed or put in"
    return "" if said == number else f"says it is number {said}"


def _tail(path: Path, ledger: BinaryIO) -> tuple[int, str]:
    """Number and hash of the last whole line; what follows it is cut off."""
    end = ledger.seek(0, os.SEEK_END)
    start = ledger.seek(max(0, end - 2 * MAX_LINE))
    held = ledger.read()
    whole = held.rfind(b"\n") + 1
    if start == 0 and whole == 0 and not held:
        return 0, START
    if whole < len(held):
        if whole == 0 and len(held) > MAX_LINE:
            raise RequestError("ledger", f"{path} is no ledger: it has no lines")
        ledger.truncate(start + whole)
        ledger.seek(0, os.SEEK_END)
    if whole == 0:
        return 0, START
    line = held[held.rfind(b"\n", 0, whole - 1) + 1 : whole]
    try:
        return int(json.loads(line)["number"]), hashlib.sha256(line).hexdigest()
    except (ValueError, KeyError, TypeError):
        raise RequestError("ledger", f"{path} is no ledger: its last line is none of one") from None


@contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    """Alone among the processes that write a ledger; Windows, without flock, has one writer at a time."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
