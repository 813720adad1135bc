"""Looking at processes from outside."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LOOK_S = 0.002  # between two looks: without a pause the one who waits would take a core from the awaited


def wait_until(
    condition: Callable[[], object], *working: subprocess.Popen[Any], within_s: float = 120, why: str = ""
) -> None:
    """Wait for what processes bring about and tell nobody; AssertionError if one of `working` ends first."""
    deadline = time.monotonic() + within_s
    while not condition():
        for process in working:
            assert process.poll() is None, f"ended before its time ({process.poll()}) {why}"
        assert time.monotonic() < deadline, why or "nothing came"
        time.sleep(_LOOK_S)


def lives(process: int) -> bool:
    """Whether a process is there and more than a corpse that waits to be collected."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def children(process: int) -> list[int]:
    """The processes that a process has started and that are there."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"\nPPid:\t{process}\n" in status.read_text():
                found.append(int(status.parent.name))
        except OSError:  # gone meanwhile
            continue
    return found


def listens(port: int) -> bool:
    """Whether something on this machine takes connections at a port."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.1).close()
    except OSError:
        return False
    return True
