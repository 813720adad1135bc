"""How much may be under way in a stage and behind it: what is more is refused at once, not kept waiting.

The server's own limits on its queues are not used (docs/reports/log.md): with one, Triton hands work over
only to a model that it takes for idle, loses count of those, and then looks every half second. So the stages
refuse. What becomes of a request behind a stage nobody tells it; but a queue keeps its order, so when a
probe, a request of the stage's own, is answered, everything handed over before it is done, by other
processes of the same stage, too.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

T = TypeVar("T")

# A probe for each eighth of the room, once half of it may be taken: a lone client sets off none.
PROBES = 8
HALF = 0.5

# A request of the most rows counts for as many of one row: small ones share batches, large ones do not.
FULL = 6


def weight(rows: int, most: int) -> float:
    """What a request of `rows` rows takes of the room: one row takes 1, `most` rows take FULL."""
    return 1 + (FULL - 1) * (rows - 1) / max(most - 1, 1)


class Marks:
    """How much weight was handed over so far, how far probes have asked, and how far they were answered.

    With `file` these are the marks of all processes that name it, whose requests wait in one queue.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._threads = threading.Lock()
        self._file: int | None = None
        self._marks = np.zeros(3)
        if file is not None:
            self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._file, self._marks.nbytes)
            self._marks = np.frombuffer(mmap.mmap(self._file, self._marks.nbytes))
            with self.held() as marks:  # whoever died with a probe under way confirms nothing any more
                marks[1:] = marks[0]

    @property
    def unconfirmed(self) -> float:
        """The weight that may still wait."""
        return float(self._marks[0] - self._marks[2])

    def done(self, weight: float) -> None:
        """Count what a model says it has done; what was lost on the way to it only probes find."""
        with self.held() as marks:
            marks[2] = min(marks[2] + weight, marks[0])

    @contextmanager
    def held(self) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float64]]]:
        """Passed, asked and confirmed, which nobody else reads or changes meanwhile."""
        with self._threads:
            if self._file is not None:
                fcntl.lockf(self._file, fcntl.LOCK_EX)  # the kernel opens it when a process dies
            try:
                yield self._marks
            finally:
                if self._file is not None:
                    fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file, which the others may go on with."""
        with self._threads:
            if self._file is not None:
                os.close(self._file)
            self._file = None


def marks_of(model: str, version: str, processes: int) -> Marks:
    """For a stage that the server runs in so many processes: several share theirs."""
    return Marks() if processes == 1 else shared_marks(f"{model}-{version}")


def shared_marks(name: str) -> Marks:
    """Those that all processes of this server know by `name`."""
    return Marks(Path(tempfile.gettempdir(), f"icgan-gate-{os.getppid()}-{name}"))


class Gate:
    """Counts what was handed over to a model behind and not confirmed. Safe to use from several threads.

    `probe` asks that model, and returns when it has answered or cannot.
    """

    def __init__(self, room: float, probe: Callable[[], None], marks: Marks | None = None) -> None:
        self.room = room
        self._probe = probe
        self._marks = marks or Marks()
        self._probes = ThreadPoolExecutor(PROBES, "probe")

    @property
    def has_room(self) -> bool:
        """Whether more may be handed over."""
        return self._marks.unconfirmed < self.room

    def enter(self, weight: float) -> None:
        """Count what is about to be handed over."""
        with self._marks.held() as marks:
            marks[0] += weight
            passed, asked, confirmed = map(float, marks)
            known = max(asked, confirmed)
            if passed - confirmed < HALF * self.room or passed - known < self.room / PROBES:
                return
            marks[1] = passed
        self._probes.submit(self._confirm, passed)

    def close(self) -> None:
        """Wait for the probes under way."""
        self._probes.shutdown(cancel_futures=True)
        with self._marks.held() as marks:  # those given up confirm nothing any more
            marks[2] = max(marks[1], marks[2])
        self._marks.close()

    def _confirm(self, passed: float) -> None:
        try:
            self._probe()
        finally:  # where a model fails nothing waits
            with self._marks.held() as marks:
                marks[2] = max(marks[2], passed)


class Workers:
    """Threads of a stage, at a low priority, and how much waits for them or is in their hands."""

    def __init__(self, count: int, room: float, niceness: int) -> None:
        self.room = room
        self._load = 0.0
        self._lock = threading.Lock()
        # Linux has a priority for each thread
        self._threads = ThreadPoolExecutor(count, "worker", lambda: os.nice(niceness) and None)

    @property
    def has_room(self) -> bool:
        """Whether more may be given to them."""
        return self._load < self.room

    def submit(self, weight: float, work: Callable[[], T]) -> Future[T]:
        """Have `work` done in its turn."""
        with self._lock:
            self._load += weight
        future = self._threads.submit(work)
        future.add_done_callback(lambda _: self._done(weight))
        return future

    def close(self) -> None:
        """Wait for what was begun."""
        self._threads.shutdown()

    def _done(self, weight: float) -> None:
        with self._lock:
            self._load -= weight
