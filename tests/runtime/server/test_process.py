"""How the embedded server is started, watched and ended: a pretended one. tests/triton has the real one."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from icgan_runtime.errors import BackendError, RequestError, ServiceError, UnavailableError
from icgan_runtime.server import process as serve
from icgan_runtime.server.environment import Environment, model_sources
from icgan_runtime.server.process import (
    Ports,
    Server,
    ServerOptions,
    free_ports,
)
from tests.processes import lives, wait_until

PRETENDED = Path(__file__).with_name("pretend_tritonserver.py")


@pytest.fixture
def environment(tmp_path) -> Environment:
    """The layout of the wheel, with a server that only pretends."""
    package = tmp_path / "site-packages" / "pytriton"
    command = shlex.join([sys.executable, "-S", str(PRETENDED)])
    parts = {
        "bin/tritonserver": f'#!/bin/sh\nexec {command} "$@"\n',
        "backends/python/libtriton_python.so": "library",
        "backends/python/more/file": "left out",
        "python_backend_stubs/3.11/triton_python_backend_stub": "stub",
    }
    for name, text in parts.items():
        path = package / "tritonserver" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return Environment(tmp_path / "venv" / "bin" / "python", package, tmp_path / "lib", "3.11")


@pytest.fixture
def repository(tmp_path) -> Path:
    """An ensemble and a stage."""
    folder = tmp_path / "model_repository"
    for name, config in {"icgan": 'platform: "ensemble"', "icgan_lookup": 'backend: "python"'}.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(f'name: "{name}"\n{config}\n')
    (folder / "icgan_lookup" / "1" / "model.py").write_text("")
    return folder


@pytest.fixture
def lines() -> list[str]:
    """What the server has logged."""
    return []


@pytest.fixture
def start(environment, repository, lines, tmp_path, monkeypatch) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []
    monkeypatch.setenv("PRETEND_NOTES", str(tmp_path / "notes"))

    def start(fault: str = "", ready: bool = True, **options: Any) -> Server:
        monkeypatch.setenv("PRETEND", fault)
        settings = ServerOptions(**options) if options else None
        started.append(Server(repository, environment, settings, lines.append))
        if ready:
            started[-1].wait_until_ready()
        return started[-1]

    yield start
    for server in started:
        server._process.kill()
        server.stop()


@pytest.fixture
def notes(tmp_path) -> Callable[[], list[dict[str, Any]]]:
    """What the server has noted so far."""
    return lambda: [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]


# ---- starting --------------------------------------------------------------------------------------------


def test_a_server_is_started_with_its_ports_its_models_and_closed_doors(
    start, notes, repository, environment
):
    server = start()
    flags = notes()[0]["flags"]
    assert notes()[0]["path"].startswith(f"{environment.python.parent}:"), "where its stages find python"
    token = server._token
    assert len(token) > 30
    name = server._scratch.name
    ports = server.options.ports
    doors = f"model-repository,logging,trace:icgan-control={token}"
    once = [tuple(flag) for flag in flags if flag[0] != "backend-config"]
    assert sorted(once) == sorted(
        {
            "disable-auto-complete-config": "",
            "model-repository": str(repository),
            "backend-directory": str(server._scratch / "backends"),
            "cache-directory": str(environment.server / "caches"),
            "http-address": "127.0.0.1",
            "http-port": str(ports.http),
            "grpc-address": "127.0.0.1",
            "grpc-port": str(ports.grpc),
            "metrics-address": "127.0.0.1",
            "metrics-port": str(ports.metrics),
            "http-restricted-api": doors,
            "grpc-restricted-protocol": doors,
            "model-control-mode": "explicit",
            "exit-timeout-secs": "30",
            "allow-gpu-metrics": "false",
            "model-config-name": "cpu",
            "load-model": "*",
        }.items()
    )
    several = [tuple(flag) for flag in flags if flag[0] == "backend-config"]
    assert several == [
        ("backend-config", f"python,shm-region-prefix-name={name}-"),
        ("backend-config", f"onnxruntime,shm-region-prefix-name={name}-"),
    ]
    assert server.http_url == f"http://127.0.0.1:{ports.http}"
    assert server.grpc_url == f"grpc://127.0.0.1:{ports.grpc}"
    assert server.metrics_url == f"http://127.0.0.1:{ports.metrics}/metrics"


def test_a_server_that_others_reach_maps_no_memory_and_loads_what_it_is_told(start, notes):
    server = start(host="127.0.0.2", config_name=None, models=("icgan", "icgan_lookup"), exit_timeout_s=7)
    flags = dict(notes()[0]["flags"])
    doors = f"model-repository,logging,trace,shared-memory:icgan-control={server._token}"
    assert flags["http-restricted-api"] == flags["grpc-restricted-protocol"] == doors
    assert flags["http-address"] == flags["grpc-address"] == flags["metrics-address"] == "127.0.0.2"
    assert "model-config-name" not in flags
    assert flags["exit-timeout-secs"] == "7"
    loaded = [value for name, value in notes()[0]["flags"] if name == "load-model"]
    assert loaded == ["icgan", "icgan_lookup"]


def test_the_backends_lie_in_a_folder_of_the_server_alone(start):
    server = start()
    folder = server._scratch / "backends"
    assert (folder / "python" / "libtriton_python.so").read_text() == "library"
    assert not (folder / "python" / "libtriton_python.so").is_symlink()
    assert (folder / "python" / "triton_python_backend_stub").read_text() == "stub"
    assert not (folder / "python" / "more").exists()
    source = model_sources() / "backends" / "onnxruntime" / "model.py"
    assert (folder / "onnxruntime" / "model.py").read_bytes() == source.read_bytes()


def test_a_python_without_a_server_part_is_named_and_nothing_is_left(
    environment, repository, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    other = Environment(environment.python, environment.package, environment.library, "3.99")
    with pytest.raises(BackendError, match=r"^nvidia-pytriton has no server part for Python 3\.99$"):
        Server(repository, other)
    assert set(tmp_path.iterdir()) == before


def test_the_servers_python_processes_find_their_packages_and_libraries(environment, monkeypatch):
    libs = f"{environment.package.parent}/nvidia_pytriton.libs:{environment.library}"
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin")
    found = environment.variables()
    assert found["LD_LIBRARY_PATH"] == libs
    assert found["PATH"] == f"{environment.python.parent}:/usr/bin"
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("PATH")
    found = environment.variables()
    assert found["LD_LIBRARY_PATH"] == f"{libs}:/mine"
    assert found["OMP_WAIT_POLICY"] == "ACTIVE"
    assert found["PATH"] == f"{environment.python.parent}:{os.defpath}"


def test_a_model_that_does_not_load_is_reported_by_the_first_error_that_matters(start, lines):
    with pytest.raises(ServiceError) as caught:
        start("broken")
    assert str(caught.value) == "tritonserver ended with status 3: failed to load 'icgan_encoder'"
    assert lines[0].endswith("started")
    with pytest.raises(ServiceError, match=r"^tritonserver ended with status 4: it said nothing$"):
        start("silent")


def test_a_server_that_is_never_ready_is_given_up_with_its_last_line(start):
    server = start("late", ready=False)
    with pytest.raises(ServiceError, match=r"^tritonserver was not ready after 0\.5 s: ") as caught:
        server.wait_until_ready(timeout_s=0.5)
    assert type(caught.value) is ServiceError


def test_a_taken_port_and_an_address_of_another_machine_are_named(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        free = free_ports()
        with pytest.raises(ServiceError) as caught:
            start(ports=Ports(free.http, port, free.metrics))
    expected = f"port {port} of 127.0.0.1 is taken by another program; choose another one"
    assert str(caught.value) == expected
    with pytest.raises(ServiceError) as caught:
        start(host="192.0.2.1", ports=free)
    expected = f"cannot listen on 192.0.2.1:{free.http} (Cannot assign requested address)"
    assert str(caught.value) == expected


@pytest.mark.parametrize("port", [-1, 0, 65536, 10**6])
@pytest.mark.parametrize("name", ["http", "grpc", "metrics"])
def test_a_port_that_is_none_is_named(start, name, port):
    ports = dataclasses.replace(free_ports(), **{name: port})
    with pytest.raises(RequestError, match=rf"^{name}-port: {port}, expected 1\.\.65535$"):
        start(ports=ports)


def test_one_port_for_two_purposes_is_named(start):
    free = free_ports()
    with pytest.raises(RequestError, match=rf"^grpc-port: {free.http} is the http-port, too; choose another"):
        start(ports=dataclasses.replace(free, grpc=free.http))


def test_free_ports_are_three_that_can_be_listened_on():
    ports = free_ports()
    numbers = {ports.http, ports.grpc, ports.metrics}
    assert len(numbers) == 3
    for number in numbers:
        socket.create_server(("127.0.0.1", number)).close()


# ---- while it runs ---------------------------------------------------------------------------------------


def test_the_operator_shows_the_key_and_gets_the_servers_words(start, notes):
    server = start()
    assert server.call("v2/health/ready") == b"fine"
    server.load("icgan_lookup")
    server.unload("icgan_lookup")
    asked = [note for note in notes() if "body" in note]
    assert asked == [
        {"path": f"/v2/repository/models/icgan_lookup/{verb}", "body": {}, "token": server._token}
        for verb in ("load", "unload")
    ]
    path = "v2/repository/models/icgan_none/load"
    with pytest.raises(ServiceError, match=rf"^{path}: 400 no such model$"):
        server.call(path, {})
    with pytest.raises(ServiceError, match=r"icgan_odd/load: 400 no json$"):
        server.load("icgan_odd")


def test_loading_and_unloading_have_two_minutes(start, monkeypatch):
    server = start()
    asked: list[object] = []
    monkeypatch.setattr(server, "call", lambda path, body, timeout_s: asked.append(timeout_s))
    server.load("icgan")
    server.unload("icgan")
    assert asked == [120, 120]


def test_an_answer_that_does_not_come_is_an_unavailable_server(start):
    with pytest.raises(UnavailableError, match=r"^slow: timed out"):
        start().call("slow", timeout_s=0.1)


def test_an_answer_that_breaks_off_is_an_unavailable_server(start):
    with pytest.raises(UnavailableError, match=r"^short: IncompleteRead"):
        start().call("short")


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_the_server_is_asked_past_the_proxies_of_the_environment(start, monkeypatch, name):
    """A proxy does not reach this machine's loopback, and must not be shown the key."""
    for other in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(urllib.request, "_opener", None)  # which remembers the proxies of its first use
    assert start().call("v2/health/ready") == b"fine"


def test_the_stages_are_the_servers_processes_and_the_dead_have_no_name(start, repository):
    server = start("stubs")
    [(process, model)] = server.stages().items()
    assert model == "icgan_lookup"
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: server.stages() != {process: "icgan_lookup"})
    assert server.stages() == {process: None}
    server._process.kill()
    server._process.wait()
    with pytest.raises(UnavailableError, match=r"^tritonserver has ended$"):
        server.stages()


def test_a_crash_is_told_by_its_signal_and_first_words(start, lines):
    server = start()
    with pytest.raises(UnavailableError):
        server.call("v2/models/x/crash", {})
    with pytest.raises(ServiceError) as caught:
        server.wait()
    words = "terminate called after throwing an instance of 'std::bad_alloc'"
    assert str(caught.value) == f"tritonserver was ended by SIGABRT: {words}"
    assert lines[-2] == "Signal (6) received."


def test_a_kill_leaves_no_words_and_hints_at_memory(start):
    server = start()
    server._process.kill()
    with pytest.raises(ServiceError, match=r"^tritonserver was ended by SIGKILL \(out of memory\?\)$"):
        server.wait()


def test_a_server_that_was_told_to_end_by_somebody_else_says_its_status(start):
    server = start()
    server._process.terminate()
    with pytest.raises(ServiceError, match=r"^tritonserver ended with status 0$"):
        server.wait()


# ---- ending ----------------------------------------------------------------------------------------------


def test_a_stop_unloads_the_ensembles_first_and_leaves_nothing(start, notes):
    server = start("stubs", exit_timeout_s=600)
    left = Path("/dev/shm") / f"{server._scratch.name}-region"
    left.write_bytes(b"")
    stages, scratch = server.stages(), server._scratch
    with server:
        pass
    after = [note for note in notes() if "flags" not in note]
    assert [note.get("path") or note["told"] for note in after] == [
        "/v2/repository/models/icgan/unload",
        "to end",
    ]
    assert server._process.returncode == 0
    assert not scratch.exists()
    assert not left.exists()
    assert not server._reader.is_alive()
    wait_until(lambda: not any(lives(process) for process in stages))  # killed, and about to go


def test_a_second_stop_kills_nobody_who_has_the_number_of_the_server_by_then(start, monkeypatch):
    server = start()
    server.stop()
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, _: killed.append(group))
    server.stop()
    assert killed == []


def test_a_server_that_does_not_end_is_killed_after_a_while(start, monkeypatch):
    monkeypatch.setattr(serve, "GRACE_S", 0.1)
    server = start("deaf", exit_timeout_s=0)
    server.stop()
    assert server._process.returncode == -signal.SIGKILL
