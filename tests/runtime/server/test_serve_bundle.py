"""From a bundle to a server, and which lines of the server are shown. tests/triton serves for real."""

from __future__ import annotations

from pathlib import Path

import pytest

from icgan_runtime.errors import IcganError
from icgan_runtime.server import serve_bundle
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.process import ServerOptions
from icgan_runtime.server.serve_bundle import worth_showing

INFO = "I1124 14:00:00.000000 1 server.cc:1] fine"
WARNING = "W1124 14:00:00.000000 1 server.cc:1] odd"
ERROR = "E1124 14:00:00.000000 1 server.cc:1] broken"
FATAL = "F1124 14:00:00.000000 1 server.cc:1] over"


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("error", {ERROR, FATAL}),
        ("warning", {WARNING, ERROR, FATAL}),
        ("info", {INFO, WARNING, ERROR, FATAL}),
    ],
)
def test_the_log_is_shown_from_its_level_up(level, shown):
    assert {line for line in (INFO, WARNING, ERROR, FATAL) if worth_showing(line, level)} == shown


@pytest.mark.parametrize(
    "line",
    [
        "",
        "+------+",
        "| READY |",
        "E1124 14:00:00.0 1 server.cc:241] CudaDriverHelper has not been initialized.",
        "W1124 14:00:00.0 1 pinned_memory_manager.cc:1] Unable to allocate pinned system memory, no GPU",
        "E1124 14:00:00.0 1 ensemble_scheduler.cc:1] unable to create stream for icgan: no driver",
    ],
)
def test_tables_and_the_lack_of_a_gpu_are_not_news(line):
    assert not worth_showing(line, "info")


@pytest.mark.parametrize("level", ["error", "warning", "info"])
@pytest.mark.parametrize("line", ["terminate called after throwing an instance of 'x'", " 0# abort"])
def test_a_crash_is_shown_at_every_level(line, level):
    assert worth_showing(line, level)


def test_where_there_can_be_no_cache_the_variable_that_moves_it_is_named(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(serve_bundle, "find_environment", lambda: None)
    served = serve_bundle.serve_bundle(tiny_bundle, ServerOptions(), RepositoryOptions(), "warning", print)
    with pytest.raises(IcganError, match=r"file/icgan cannot be made .*: set ICGAN_CACHE"), served:
        pass


def test_a_served_bundle_lies_in_the_cache_while_it_is_served(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    steps: list[object] = []

    class Server:
        def __init__(self, repository: Path, environment: object, options: object, forward: object) -> None:
            steps.append((repository.parents[1], environment, options))
            assert (repository / "canary.json").exists()
            forward(WARNING)  # type: ignore[operator]
            forward(INFO)  # type: ignore[operator]
            self.wait_until_ready = lambda: steps.append("ready")

        def __enter__(self) -> Server:
            return self

        def __exit__(self, *_: object) -> None:
            steps.append("stopped")

    class Dog:
        def __init__(self, server: Server, report: object) -> None:
            steps.append(report)

        def __enter__(self) -> None:
            steps.append("watched")

        def __exit__(self, *_: object) -> None:
            steps.append("no longer watched")

    monkeypatch.setattr(serve_bundle, "Server", Server)
    monkeypatch.setattr(serve_bundle, "Watchdog", Dog)
    monkeypatch.setattr(serve_bundle, "find_environment", lambda: "environment")
    reports: list[str] = []
    options = ServerOptions()
    served = serve_bundle.serve_bundle(tiny_bundle, options, RepositoryOptions(), "warning", reports.append)
    with served as server:
        assert isinstance(server, Server)
        steps.append("served")
    assert steps == [
        (tmp_path / "icgan", "environment", options),
        "ready",
        reports.append,
        "watched",
        "served",
        "no longer watched",
        "stopped",
    ]
    assert reports[0] == WARNING
    assert [line.split(":")[0] for line in reports[1:]] == ["icgan_encoder", "icgan_generator"], "notes"
    assert list((tmp_path / "icgan").iterdir()) == []
