"""`icgan serve`: what it starts, says and ends with."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from icgan_runtime.cli import serve
from icgan_runtime.errors import ServiceError
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.process import Ports


@pytest.fixture
def served(monkeypatch):
    """What `icgan serve` starts, which ends at once as with Ctrl-C unless the test puts another end in."""
    asked: list[Any] = []
    end = SimpleNamespace(error=KeyboardInterrupt(), asked=asked)

    def wait() -> None:
        asked.append(signal.getsignal(signal.SIGTERM))
        raise end.error

    @contextlib.contextmanager
    def serve_bundle(*arguments: object) -> Iterator[object]:
        asked.extend(arguments)
        yield SimpleNamespace(
            http_url="http://h:1", grpc_url="grpc://h:2", metrics_url="http://h:3/m", wait=wait
        )
        asked.append("over")

    before = signal.getsignal(signal.SIGTERM)
    for name in ("serve_bundle", "serve_repository"):
        monkeypatch.setattr(f"icgan_runtime.server.serve_bundle.{name}", serve_bundle)
    yield end
    signal.signal(signal.SIGTERM, before)


def test_what_to_type_is_the_program_that_serves_where_icgan_alone_is_another_or_none(
    icgan, served, monkeypatch, tmp_path
):
    program = tmp_path / "serve env" / "icgan"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr("sys.argv", [str(program), "serve", "B"])
    monkeypatch.setenv("PATH", "")
    assert f"  '{program}' generate --url grpc://" in icgan("serve", "B")[1]
    monkeypatch.setenv("PATH", str(program.parent))
    assert "\n  icgan generate --url grpc://" in icgan("serve", "B")[1]


def test_serve_says_how_it_is_asked_and_ends_with_ctrl_c(icgan, served):
    ports = ["--http-port", 1, "--grpc-port", 2, "--metrics-port", 3]
    flags = [
        "--search",
        "graph",
        "--precision",
        "int8",
        "--max-batch",
        4,
        "--generators",
        2,
        "--decoders",
        3,
        "--log",
        "info",
    ]
    status, printed, complaint = icgan("serve", "B", *ports, *flags)
    assert (status, complaint) == (0, "")
    assert printed.splitlines() == [
        "serving B until Ctrl-C, metrics at http://h:3/m",
        "  icgan generate --url grpc://127.0.0.1:2 photo.jpg --out grid.png",
        "  icgan generate --url http://127.0.0.1:1 photo.jpg --out grid.png",
        "stopping when the requests in flight are answered",
    ]
    bundle, options, choices, level, report, on_sigterm, over = served.asked
    assert (bundle, level, over) == (Path("B"), "info", "over")
    assert (options.ports, options.host) == (Ports(1, 2, 3), "127.0.0.1")
    assert choices == RepositoryOptions(
        search="graph",
        precision="int8",
        cpu_precision="int8",
        generators=2,
        decoders=3,
        max_batch=4,
        changes="bundle",
    )
    assert on_sigterm is signal.default_int_handler, "SIGTERM is as Ctrl-C"
    assert callable(report)


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("10.0.0.7", "10.0.0.7")])
def test_serve_on_all_addresses_shows_one_that_can_be_asked(icgan, served, host, shown):
    _, printed, _ = icgan("serve", "B", "--host", host)
    assert served.asked[1].host == host
    assert f"--url grpc://{shown}:8001 " in printed
    assert f"--url http://{shown}:8000 " in printed


def test_serve_prints_its_addresses_as_json(icgan, served):
    _, printed, _ = icgan("serve", "B", "--json")
    assert json.loads(printed) == {"http": "http://h:1", "grpc": "grpc://h:2", "metrics": "http://h:3/m"}


def test_a_server_that_dies_is_status_1(icgan, served):
    served.error = ServiceError("tritonserver was ended by SIGABRT")
    status, _, complaint = icgan("serve", "B")
    assert (status, complaint) == (1, "icgan: tritonserver was ended by SIGABRT\n")


def test_the_log_goes_to_stderr_and_a_full_disk_costs_lines_only(capfd, monkeypatch):
    serve.report("a line \udcff \x1b[2J")
    assert capfd.readouterr().err == "a line \\udcff \\u001b[2J\n"
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        serve.report("lost")


@pytest.fixture
def repository(tmp_path) -> Path:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "icgan.json").write_text("{}")
    return tmp_path / "repository"


def test_a_repository_is_served_as_it_was_made(icgan, served, repository):
    status, printed, complaint = icgan("serve", repository)
    assert (status, complaint) == (0, "")
    assert printed.startswith(f"serving {repository} until Ctrl-C")
    assert served.asked[0] == repository
    assert not any(isinstance(each, RepositoryOptions) for each in served.asked)


@pytest.mark.parametrize(
    "flag",
    [["--precision", "int8"], ["--max-batch", "8"], ["--cache-mb", "9"], ["--require-signature", "key.pem"]],
)
def test_what_a_repository_was_made_with_is_not_chosen_again(icgan, served, repository, flag, capsys):
    with pytest.raises(SystemExit, match="2"):
        icgan("serve", repository, *flag)
    assert f"{flag[0]} is for a bundle: {repository} is a repository" in capsys.readouterr().err
    assert served.asked == []


@pytest.mark.parametrize(("value", "key"), [("secret", "secret"), ("", None)])
def test_the_operators_key_comes_from_the_environment_where_no_list_of_processes_shows_it(
    icgan, served, monkeypatch, value, key
):
    monkeypatch.setenv("ICGAN_CONTROL_KEY", value)
    icgan("serve", "B")
    assert served.asked[1].control_key == key


def test_traces_go_where_the_operator_says(icgan, served):
    icgan("serve", "B", "--traces", "http://collector:4318/v1/traces", "--trace-every", 9)
    assert (served.asked[1].traces, served.asked[1].trace_every) == ("http://collector:4318/v1/traces", 9)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--traces", "collector:4318"], "traces: 'collector:4318', expected an address like http://"),
        (["--traces", "http://h:1/v1,rate=0"], "traces: 'http://h:1/v1,rate=0', expected an address"),
        (["--trace-every", "0"], "trace-every: 0, expected at least 1"),
    ],
)
def test_what_is_no_address_of_a_collector_is_one_line(icgan, served, flags, complaint):
    status, _, said = icgan("serve", "B", *flags)
    assert status == 1
    assert said.startswith(f"icgan: {complaint}")
    assert served.asked == []
