"""How much may be under way in a stage and behind it: what is more is refused at once, not kept waiting.

The server's own limits on its queues are not used (docs/reports/log.md): with one, Triton hands work over
only to a model that it takes for idle, loses count of those, and then looks every half second. So the stages
refuse. What becomes of a request behind a stage nobody tells it; but a queue keeps its order, so when a
probe, a request of the stage's own, is answered, everything handed over before it is done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# A probe for each eighth of the room, once half of it may be taken: a lone client sets off none.
PROBES = 8
HALF = 0.5

# A request of the most rows counts for as many of one row: small ones share batches, large ones do not.
FULL = 6


def weight(rows: int, most: int) -> float:
    """What a request of `rows` rows takes of the room: one row takes 1, `most` rows take FULL."""
    return 1 + (FULL - 1) * (rows - 1) / max(most - 1, 1)


class Gate:
    """Counts what was handed over to a model behind and not confirmed. Safe to use from several threads.

    `probe` asks that model, and returns when it has answered or cannot.
    """

    def __init__(self, room: float, probe: Callable[[], None]) -> None:
        self.room = room
        self._probe = probe
        self._passed = self._asked = self._confirmed = 0.0  # weight handed over so far; up to which probe
        self._lock = threading.Lock()
        self._probes = ThreadPoolExecutor(PROBES, "probe")

    @property
    def has_room(self) -> bool:
        """Whether more may be handed over."""
        return self._passed - self._confirmed < self.room

    def enter(self, weight: float) -> None:
        """Count what is about to be handed over."""
        with self._lock:
            self._passed += weight
            passed, known = self._passed, max(self._asked, self._confirmed)
            if passed - self._confirmed < HALF * self.room or passed - known < self.room / PROBES:
                return
            self._asked = passed
        self._probes.submit(self._confirm, passed)

    def close(self) -> None:
        """Wait for the probes under way."""
        self._probes.shutdown(cancel_futures=True)

    def _confirm(self, passed: float) -> None:
        try:
            self._probe()
        finally:  # where a model fails nothing waits
            with self._lock:
                self._confirmed = max(self._confirmed, passed)


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
