"""Keeps freed tensors' memory in the process: on a CPU a sixth of a step's time was spent on page faults."""

import ctypes
import sys

# <malloc.h> of glibc
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Let malloc reuse large blocks instead of returning each to the system; nothing outside glibc.

    A training step, or the next graph of an export, frees and takes the same sizes again and again. By
    default glibc maps large ones afresh, and the kernel then clears every page at its first touch. The
    process keeps its peak memory in return.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    for parameter, value in (
        (M_MMAP_THRESHOLD, 2**30),
        (M_TRIM_THRESHOLD, 2**31 - 1),
        (M_TOP_PAD, 2**28),
    ):
        libc.mallopt(parameter, value)
