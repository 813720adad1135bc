"""A stage whose process is killed under load is back within seconds; nobody gets a wrong picture."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.errors import IcganError, ServiceError
from icgan_runtime.serve import Server
from icgan_runtime.watchdog import Watchdog
from tests.triton.test_icgan import PHOTO

STAGES = ("icgan_preprocess", "icgan_encoder", "icgan_lookup", "icgan_condition", "icgan_generator")


@pytest.fixture(scope="module")
def victim(start, tiny_bundle) -> Server:
    """A server of its own, to be hurt."""
    return start(tiny_bundle)


def kill(server: Server, stage: str) -> None:
    """Kill the process that runs a stage."""
    process = next(process for process, model in server.stages().items() if model == stage)
    os.kill(process, signal.SIGKILL)


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
        deadline = time.monotonic() + 30
        while not condition(self):
            assert time.monotonic() < deadline, "nothing came"
            threading.Event().wait(0.02)

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
    kill(victim, "icgan_lookup")
    watchdog = Watchdog(victim)
    assert watchdog.check() == ["icgan_lookup"]
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
