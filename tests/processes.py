"""Looking at processes from outside."""

from __future__ import annotations

from pathlib import Path


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
