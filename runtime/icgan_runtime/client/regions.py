"""Memory that a server and its client on the same machine both map, so that pictures need not pass a socket.

A region holds one tensor of one request. Nobody may use it again before the server has answered: after a
time-out the server may still be writing. Such a region is lost, and unregistered later, which Triton refuses
while a request is using it. Only then is it freed: CUDA does not say what becomes of a GPU's memory that goes
while another process has it mapped.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Region(Protocol):
    """Bytes that both sides can reach."""

    @property
    def name(self) -> str:
        """What the server calls it."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def registration(self) -> tuple[object, ...]:
        """What the server needs to register it, in the order of tritonclient's arguments."""

    def write(self, array: Array) -> None:
        """Lay a C-ordered array at its beginning."""

    def read(self, dtype: str, shape: tuple[int, ...]) -> Array:
        """A copy of the array at its beginning."""

    def close(self) -> None:
        """Free it; what the server has mapped of the host's memory stays until it is unregistered."""


def region_name() -> str:
    """A name nobody has: whose it is, should its process be killed, and no longer than macOS allows (31)."""
    return f"icgan-{os.getpid()}-{secrets.token_hex(5)}"


class SystemRegion:
    """POSIX shared memory. Pages that are never written take no memory."""

    def __init__(self, size: int) -> None:
        self._memory = SharedMemory(region_name(), create=True, size=size)
        self.size = size

    @property
    def name(self) -> str:
        return self._memory.name

    @property
    def registration(self) -> tuple[object, ...]:
        return self.name, f"/{self.name}", self.size

    def write(self, array: Array) -> None:
        self._view(array.dtype.str, array.shape)[...] = array

    def read(self, dtype: str, shape: tuple[int, ...]) -> Array:
        return self._view(dtype, shape).copy()

    def close(self) -> None:
        self._memory.close()
        self._memory.unlink()

    def _view(self, dtype: str, shape: tuple[int, ...]) -> Array:
        return np.ndarray(shape, dtype, buffer=self._memory.buf)


class Pool:
    """The regions of one connection, each lent to one request at a time. Safe to use from several threads."""

    def __init__(self, make: Callable[[int], Region], size: int) -> None:
        self.size = size  # bytes of a region
        self._make = make
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._lost: list[Region] = []  # that the server may let go of

    def take(self) -> Region | None:
        """A region the server knows and nobody uses; None when a new one has to be made and registered."""
        with self._lock:
            return self._free.pop() if self._free else None

    def new(self) -> Region:
        """One that is not registered yet."""
        return self._make(self.size)

    def give(self, region: Region) -> None:
        """Back from a request that was answered."""
        with self._lock:
            self._free.append(region)

    def lose(self, *regions: Region) -> None:
        """From requests whose end is not known: never lent again."""
        with self._lock:
            self._lost += regions

    def lost(self) -> list[Region]:
        """To unregister now; the caller closes what the server lets go of, and loses again what it keeps."""
        with self._lock:
            regions, self._lost = self._lost, []
            return regions

    def close(self) -> list[Region]:
        """All there are, to unregister and then to close."""
        with self._lock:
            free, self._free = self._free, []
        return free + self.lost()
