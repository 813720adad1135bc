"""Starting, watching and stopping the embedded server."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from icgan_runtime.errors import BackendError, MissingExtraError, ServiceError, UnavailableError
from icgan_runtime.server import environment as environments
from icgan_runtime.server.environment import find_environment
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.process import Server
from icgan_runtime.server.repository import write_repository
from tests.processes import wait_until
from tests.triton.conftest import quiet
from tests.triton.test_icgan import PHOTO
from tests.triton.wire import RefusedError, Wire, rows


@pytest.fixture
def repository(tiny_bundle, tmp_path) -> Path:
    write_repository(tiny_bundle, tmp_path / "model_repository", RepositoryOptions(), quiet)
    return tmp_path / "model_repository"


def post(url: str) -> int:
    """HTTP status of a POST by someone who is not the operator."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=b"{}")) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_stranger_cannot_unload_models_or_change_logging(server):
    assert post(f"{server.http_url}/v2/repository/models/icgan/unload") == 403
    assert post(f"{server.http_url}/v2/logging") == 403
    assert post(f"{server.http_url}/v2/trace/setting") == 403
    server.call("v2/models/icgan/ready")


def test_a_stranger_cannot_do_it_over_grpc_either(server):
    with Wire(server, "grpc") as wire:
        for attempt in (
            lambda: wire.client.unload_model("icgan"),
            lambda: wire.client.get_model_repository_index(),
            lambda: wire.client.update_log_settings({"log_verbose_level": 9}),
            lambda: wire.client.update_trace_settings(settings={"trace_level": "TENSORS"}),
        ):
            with pytest.raises(Exception, match="restricted"):
                attempt()
    server.call("v2/models/icgan/ready")


def test_the_operator_can_list_the_models(server):
    listed = json.loads(server.call("v2/repository/index", {}))
    assert {entry["state"] for entry in listed} == {"READY"}


def test_retrieval_and_server_metrics_are_on_one_page(server):
    before = values(server)
    with Wire(server, "grpc") as wire:
        wire.ask("icgan", {"IMAGE": [PHOTO] * 3, **rows(3)})
        with pytest.raises(RefusedError):
            wire.ask("icgan", {"IMAGE": [b"not a picture"], **rows(1)})
        with pytest.raises(RefusedError):
            wire.ask("icgan_file", {"IMAGE": [PHOTO], **rows(1, SEED=[-1]), "FORMAT": [b"image/png"]})
    value = values(server)
    for name in (
        "icgan_decode_failures_total",
        'icgan_refused_total{field="image"}',
        'icgan_refused_total{field="seed"}',
    ):
        assert float(value[name]) - float(before.get(name, 0)) == 1, f"{name}: once for each refused request"
    assert float(value["icgan_nearest_score_count"]) >= 1, "one picture, though three rows"
    assert "icgan_outside_bank_total" in value
    assert 'nv_inference_request_success{model="icgan",version="1"}' in value


def test_a_stopped_server_leaves_nothing_behind_even_after_a_stage_was_killed(repository, environment):
    server = Server(repository, environment)
    server.wait_until_ready()
    stages, scratch = server.stages(), server._scratch
    os.kill(next(process for process, model in stages.items() if model == "icgan_condition"), signal.SIGKILL)
    server.stop()
    assert not any(Path(f"/proc/{process}").exists() for process in (server.pid, *stages))
    assert not scratch.exists()
    assert not list(Path("/dev/shm").glob(f"{scratch.name}*"))
    with pytest.raises(UnavailableError):
        server.call("v2/health/ready")
    server.stop()  # again: no harm


def values(server) -> dict[str, str]:
    """The server's metrics by name and labels."""
    return dict(line.rsplit(" ", 1) for line in metrics(server).splitlines() if not line.startswith("#"))


def metrics(server) -> str:
    """The server's metrics; nothing yet while their port, the last to open, is closed."""
    try:
        return urllib.request.urlopen(server.metrics_url).read().decode()
    except urllib.error.URLError:
        return ""


def test_requests_in_flight_are_answered_before_the_server_stops(start, tiny_bundle):
    server = start(tiny_bundle, queue_delay_us=400_000)  # a lone request now takes seconds
    waiting = 'nv_inference_pending_request_count{model="icgan_preprocess",version="1"} 1'
    with Wire(server, "grpc") as wire, ThreadPoolExecutor() as pool:
        answer = pool.submit(wire.ask, "icgan", {"IMAGE": [PHOTO], **rows(1)})
        wait_until(lambda: waiting in metrics(server) or answer.done())
        assert not answer.done()
        server.stop()
        assert answer.result()["GENERATED"].shape == (1, 8, 8, 3)


def test_a_broken_model_is_reported_in_the_servers_own_words(repository, environment):
    (repository / "icgan_encoder" / "1" / "model.onnx").write_bytes(b"not a graph")
    with Server(repository, environment) as server, pytest.raises(ServiceError, match="icgan_encoder"):
        server.wait_until_ready()


def test_an_environment_without_a_server_is_named_with_the_remedy(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv(environments.ENVIRONMENT_VARIABLE, str(tmp_path))
    with pytest.raises(BackendError, match=r"bin/pip install '.+\[serve\]'"):
        find_environment()


def test_no_environment_at_all_names_the_extra(monkeypatch, tmp_path):
    if importlib.util.find_spec("pytriton"):
        pytest.skip("this interpreter can serve")
    monkeypatch.delenv(environments.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(environments, "__file__", str(tmp_path / "runtime" / "icgan_runtime" / "serve.py"))
    with pytest.raises(MissingExtraError, match=r"pip install 'icgan\[serve\]'"):
        find_environment()
