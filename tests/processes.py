"""Looking at processes from outside."""

from __future__ import annotations

from pathlib import Path


def lives(process: int) -> bool:
    """Whether a process is there and more than a corpse that waits to be collected."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
