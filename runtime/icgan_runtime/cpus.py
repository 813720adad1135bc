"""How many CPUs this process may use: fewer than the machine has under taskset or a container's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs of this process's affinity, or its cgroup's quota of CPU time in whole CPUs, whichever is less.

    `root` is where /proc and /sys are looked for.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(root))))


def default_threads() -> int:
    """Threads to ask a library for that would start one per core of the machine; 0 leaves that to it.

    Its own choice is the best where the whole machine may be used: some count cores, not hyperthreads.
    """
    usable = usable_cpus()
    return usable if usable < (os.cpu_count() or 1) else 0


def _quota(root: Path) -> float:
    """The smallest quota, in CPUs, of this process's cgroup and those above it, or infinity."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    found = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # inside a container the path may name what only the host sees: the mount's own files count as well
        folder = mount / path.lstrip("/")
        for place in {mount, folder, *(parent for parent in folder.parents if mount in parent.parents)}:
            found = min(found, _read_quota(place))
    return found


def _read_quota(folder: Path) -> float:
    """A cgroup's own quota in CPUs: `cpu.max` of version 2, two files of version 1."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
