"""A stage whose process is killed under load is back within seconds; nobody gets a wrong picture."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.errors import IcganError, ServiceError
from icgan_runtime.server.process import Server
from icgan_runtime.server.watchdog import Watchdog
from tests.processes import wait_until
from tests.triton.test_icgan import PHOTO

GET_ROBUST_LIST = 274  # the system call's number on x86-64
STAGES = ("icgan_preprocess", "icgan_encoder", "icgan_condition", "icgan_generator")


@pytest.fixture(scope="module")
def victim(start, tiny_bundle) -> Server:
    """A server of its own, to be hurt."""
    return start(tiny_bundle)


def kill(server: Server, stage: str) -> None:
    """Kill the process that runs a stage, at a moment when it holds no lock.

    The server aborts when a stage dies with a lock in the memory they share (docs/reports/log.md). No
    watchdog mends that, and `icgan serve` ends (tests/abuse/test_service.py).
    """
    process = next(process for process, model in server.stages().items() if model == stage)
    while True:
        os.kill(process, signal.SIGSTOP)
        while any(runs(thread) for thread in threads_of(process)):
            pass
        if not any(holds_a_lock(thread) for thread in threads_of(process)):
            os.kill(process, signal.SIGKILL)
            return
        os.kill(process, signal.SIGCONT)


def threads_of(process: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{process}/task")]


def runs(thread: int) -> bool:
    """Whether a thread has yet to stop."""
    return Path(f"/proc/{thread}/stat").read_text().rpartition(")")[2].split()[0] not in "tT"


def holds_a_lock(thread: int) -> bool:
    """Whether the kernel's list of a stopped thread's robust locks has an entry (man get_robust_list)."""
    head, size = ctypes.c_void_p(), ctypes.c_size_t()
    if platform.machine() != "x86_64" or ctypes.CDLL(None).syscall(
        GET_ROBUST_LIST, thread, ctypes.byref(head), ctypes.byref(size)
    ):
        return False
    with open(f"/proc/{thread}/mem", "rb") as memory:
        memory.seek(head.value or 0)
        first, _, pending = struct.unpack("QqQ", memory.read(24))
    return first != head.value or pending != 0


class Load:
    """Clients that ask without pause and keep what they got."""

    def __init__(self, server: Server, clients: int = 4) -> None:
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        self.pictures: list[tuple[float, np.ndarray]] = []
        self.errors: list[tuple[float, str]] = []
        self.slowest = 0.0

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a request hangs"

    def until(self, condition) -> None:
        """Wait until `condition(self)` holds."""
        wait_until(lambda: condition(self), within_s=30)

    def _ask(self) -> None:
        with Pipeline.connect(self._server.grpc_url, timeout_s=20, retries=0) as pipe:
            while not self._stop.is_set():
                started = time.monotonic()
                try:
                    picture = pipe.generate(PHOTO, seed=4, condition="nearest").images[0]
                    self.pictures.append((time.monotonic(), picture))
                except IcganError as error:
                    self.errors.append((time.monotonic(), str(error)))
                self.slowest = max(self.slowest, time.monotonic() - started)


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_is_back_within_ten_seconds_under_load(victim, tiny_bundle, stage):
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    with Pipeline.load(tiny_bundle) as pipe:
        expected = pipe.generate(PHOTO, seed=4, condition="nearest").images[0].astype(int)
    reports: list[str] = []
    with Watchdog(victim, reports.append, period_s=0.2), Load(victim) as load:
        load.until(lambda load: len(load.pictures) >= 8)
        kill(victim, stage)
        killed = time.monotonic()
        load.until(lambda _: reports)
        mended = time.monotonic()
        load.until(lambda load: sum(when > mended for when, _ in load.pictures) >= 8)
    assert min(when for when, _ in load.pictures if when > mended) - killed < 10
    assert load.slowest < 10
    assert f"{stage} had died" in reports[0]
    for _, picture in load.pictures:
        assert np.abs(picture - expected).max() <= 1


def test_a_stage_that_died_before_the_watchdog_came_is_found_by_the_canary(victim):
    kill(victim, "icgan_condition")
    watchdog = Watchdog(victim)
    assert watchdog.check() == ["icgan_condition"]
    assert watchdog.check() == []


def test_a_healthy_server_is_left_alone(victim):
    assert Watchdog(victim).check() == []


def test_a_model_that_was_left_unloaded_is_loaded_again(victim):
    victim.unload("icgan_condition")
    assert "icgan_condition" in Watchdog(victim).check()
    assert Watchdog(victim).check() == []


def test_a_fault_that_loading_does_not_cure_is_reported(victim, tmp_path):
    watchdog = Watchdog(victim)
    watchdog._canary["TRUNCATION"] = 0
    with pytest.raises(ServiceError, match="TRUNCATION"):
        watchdog.check()
