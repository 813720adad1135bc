"""What the watchdog makes of what it sees; the server here only says it. tests/triton kills real stages."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from icgan_runtime.errors import ServiceError, UnavailableError
from icgan_runtime.server import watchdog
from icgan_runtime.server.watchdog import Watchdog

CANARY = {"IMAGE": "a picture"}
Said = bytes | ServiceError


class Server:
    """Stages by process, and answers to come; keeps what it was asked."""

    def __init__(self, repository: Path, *answers: Said) -> None:
        self.repository = repository
        self.processes: dict[int, str | None] = {1: "icgan_preprocess", 2: "icgan_lookup", 3: "icgan_lookup"}
        self.answers = list(answers)
        self.asked: list[Any] = []

    def stages(self) -> dict[int, str | None]:
        return dict(self.processes)

    def call(self, path: str, body: Any, *, timeout_s: float | None = None) -> bytes:
        self.asked.append((path, body, timeout_s))
        answer = self.answers.pop(0) if self.answers else b"{}"
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    def unload(self, model: str) -> None:
        self.asked.append(f"unload {model}")

    def load(self, model: str) -> None:
        self.asked.append(f"load {model}")


@pytest.fixture
def repository(tmp_path) -> Path:
    (tmp_path / "canary.json").write_text(json.dumps(CANARY))
    return Path(tmp_path)


def watching(server: Server, report: Any = print, **options: float) -> Watchdog:
    return Watchdog(cast(Any, server), report, **options)


CANARY_CALL = ("v2/models/icgan_canary/generate", CANARY, 30)


def test_a_healthy_server_gets_one_canary_and_is_left_alone(repository):
    server = Server(repository)
    assert watching(server).check() == []
    assert server.asked == [CANARY_CALL]


def test_the_canary_waits_as_long_as_it_is_told(repository):
    server = Server(repository)
    watching(server, timeout_s=7).check()
    assert server.asked == [(*CANARY_CALL[:2], 7)]


def test_a_process_that_the_server_ended_itself_is_not_taken_for_dead(repository, monkeypatch):
    """As at another release: between its end and the server's clearing up it looks like a dead one."""
    server = Server(repository)
    dog = watching(server)
    dog.check()
    seen = iter(
        [{**server.processes, 1: None, 4: "icgan_preprocess"}, {2: "icgan_lookup", 4: "icgan_preprocess"}]
    )
    monkeypatch.setattr(server, "stages", lambda: next(seen))
    assert dog.check() == []
    assert server.asked == [CANARY_CALL, CANARY_CALL], "nothing is loaded again"


def test_a_process_that_died_since_the_last_look_is_replaced_without_waiting_for_a_canary(repository):
    server = Server(repository)
    dog = watching(server)
    dog.check()
    server.asked.clear()
    server.processes |= {1: None, 3: None}
    assert dog.check() == ["icgan_lookup", "icgan_preprocess"]
    assert server.asked == [
        "unload icgan_lookup",
        "unload icgan_preprocess",
        "load icgan_lookup",
        "load icgan_preprocess",
    ]
    server.asked.clear()
    assert dog.check() == [], "who has been replaced is not mourned again"
    assert server.asked == [CANARY_CALL]


def test_who_dies_while_others_are_replaced_is_seen_by_the_canary(repository):
    server = Server(repository)
    dog = watching(server)
    dog.check()
    server.processes[1] = None

    def load(model: str) -> None:
        server.processes[2] = None

    server.load = load  # type: ignore[method-assign]
    assert dog.check() == ["icgan_preprocess"]
    server.answers = [ServiceError("500 Stub process 'icgan_lookup_0_0' is not healthy.")]
    assert dog.check() == ["icgan_lookup"]


@pytest.mark.parametrize(
    ("words", "models"),
    [
        ("in ensemble 'icgan_canary', Stub process 'icgan_lookup_0_0' is not healthy.", ["icgan_lookup"]),
        ("Stub process 'icgan_b_12_3' is dead; 'icgan_a_0_0', 'icgan_b_0_1'", ["icgan_a", "icgan_b"]),
    ],
)
def test_the_models_whose_process_the_server_calls_dead_are_loaded_again(repository, words, models):
    server = Server(repository, ServiceError(words))
    assert watching(server).check() == models
    assert server.asked[1:] == [f"unload {model}" for model in models] + [f"load {model}" for model in models]


def test_without_a_name_every_model_that_is_not_ready_is_loaded_again(repository):
    listed = [
        {"name": "icgan_lookup"},
        {"name": "icgan_condition", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "icgan", "state": "READY"},
    ]
    server = Server(repository, ServiceError("no such model"), json.dumps(listed).encode())
    assert watching(server).check() == ["icgan_condition", "icgan_lookup"]
    assert server.asked[1] == ("v2/repository/index", {}, None)


def test_what_loading_does_not_cure_is_raised(repository):
    listed = json.dumps([{"name": "icgan", "state": "READY"}]).encode()
    server = Server(repository, ServiceError("TRUNCATION: 0"), listed)
    with pytest.raises(ServiceError, match="TRUNCATION"):
        watching(server).check()
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "busy",
    [
        UnavailableError("refused"),
        ServiceError("400 in ensemble 'icgan_canary', icgan_encoder has no room for more requests now"),
        ServiceError("400 Exceeds maximum queue size"),
    ],
)
def test_a_busy_server_is_not_taken_for_a_broken_one(repository, busy):
    server = Server(repository, busy)
    assert watching(server).check() == []
    assert server.asked == [CANARY_CALL]


def test_reports_say_what_was_dead_and_for_how_long_and_outlive_a_failing_canary(repository, monkeypatch):
    listed = json.dumps([{"name": "icgan", "state": "READY"}]).encode()
    dead = ServiceError("Stub process 'icgan_a_0_0' is not healthy; nor 'icgan_b_0_0'")
    server = Server(repository, ServiceError("broken"), listed, b"{}", dead)
    moments = itertools.chain([0.0, 1.0, 2.0], itertools.repeat(4.56))
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=moments.__next__))
    reports: list[str] = []
    done = threading.Event()

    def report(line: str) -> None:
        reports.append(line)
        if len(reports) == 2:
            done.set()

    with watching(server, report, period_s=0) as dog:
        assert done.wait(10)
        assert dog._thread.daemon
    assert not dog._thread.is_alive()
    assert reports == [
        "watchdog: broken",
        "watchdog: icgan_a, icgan_b had died and is back after 2.6 s",
    ]


def test_it_looks_once_in_a_period(repository):
    server = Server(repository)
    with watching(server, period_s=600):
        pass
    assert server.asked == []
    assert watching(server)._period_s == 1
