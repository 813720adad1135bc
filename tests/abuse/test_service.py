"""The real server under what machines and users do: overload, a jumping clock, a full disk, an early stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from icgan_runtime import Pipeline
from icgan_runtime.bundle.manifest import Manifest, describe_files
from icgan_runtime.errors import IcganError, NumericsError, ServiceError, UnavailableError
from icgan_runtime.images import MAX_ENCODED_BYTES
from icgan_runtime.server.models import CANARY_MODEL
from icgan_runtime.server.options import SEARCHES, RepositoryOptions
from icgan_runtime.server.process import Server, free_ports
from icgan_runtime.server.repository import write_repository
from icgan_runtime.server.watchdog import CANARY_NAME, Watchdog
from tests.abuse.soak import STUB, descendants
from tests.models import bundles
from tests.processes import lives, wait_until
from tests.triton import conftest
from tests.triton.test_icgan import PHOTO
from tests.triton.test_serve_bundle import command
from tests.triton.test_watchdog import Load
from tests.triton.wire import PROTOCOLS, RefusedError, Wire, rows

environment, monkeypatch_session, start = conftest.environment, conftest.monkeypatch_session, conftest.start
server, tiny_bundle, labelled_bundle = conftest.server, bundles.tiny_bundle, bundles.labelled_bundle

grpc = pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
FAKE_CLOCK = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


def expected(bundle: Path) -> np.ndarray:
    """What `Load` asks for, drawn in this process."""
    with Pipeline.load(bundle) as pipe:
        return pipe.generate(PHOTO, seed=4, condition="nearest").images[0].astype(int)


# ---- overload --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kind", ["tiny_bundle", "labelled_bundle"])
def test_every_configuration_takes_as_many_rows_and_every_stage_knows_its_limits(
    request, tmp_path, kind, search
):
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    bundle = request.getfixturevalue(kind)
    write_repository(bundle, tmp_path / "out", RepositoryOptions(search=search), conftest.quiet)
    paths = sorted((tmp_path / "out").glob("*/**/*.pbtxt"))
    assert len(paths) > 10
    for path in paths:
        config = text_format.Parse(path.read_text(), pb.ModelConfig())
        if config.backend == "python":
            if config.name == "icgan_admit":  # it counts photos
                assert config.max_batch_size == 32
            else:
                assert int(config.parameters["max_rows"].string_value) == 32, path
            assert int(config.parameters["max_queue"].string_value) == 48, path
        else:
            assert config.max_batch_size == 32, path


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_more_than_the_queues_hold_is_shed_and_the_rest_is_right(start, tiny_bundle, protocol):
    """A slow server with room for two: of many requests some are answered, the others told to come again."""
    server = start(tiny_bundle, max_queue=2, max_batch=1)
    url = server.grpc_url if protocol == "grpc" else server.http_url
    right = expected(tiny_bundle)

    def ask(_: int) -> str:
        with Pipeline.connect(url, retries=0, timeout_s=60) as pipe:
            try:
                picture = pipe.generate(PHOTO, seed=4, condition="nearest").images[0]
            except UnavailableError:
                return "shed"
            return "right" if np.abs(picture - right).max() <= 1 else "wrong"

    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(48) as pool:
        while not {"right", "shed"} <= outcomes.keys() and sum(outcomes.values()) < 2000:
            outcomes.update(pool.map(ask, range(48)))
    assert outcomes.keys() == {"right", "shed"}
    assert ask(0) == "right", "afterwards it serves as before"


@pytest.mark.parametrize(
    "words", ["icgan_encoder has no room for more requests now", "Exceeds maximum queue size"]
)
def test_an_overloaded_server_is_not_taken_for_a_broken_one(server, monkeypatch, words):
    watchdog = Watchdog(server)

    def shed(*_: object, **__: object) -> bytes:
        raise ServiceError(f"v2/models/icgan_canary/generate: 400 in ensemble 'icgan_canary', {words}")

    monkeypatch.setattr(server, "call", shed)
    assert watchdog.check() == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_picture_beyond_the_size_limit_is_refused_by_name(server, protocol):
    picture = b"\xff\xd8\xff" + bytes(MAX_ENCODED_BYTES)
    with Wire(server, protocol) as wire, pytest.raises(RefusedError) as caught:
        wire.ask("icgan", {"IMAGE": [picture], **rows(1)})
    assert caught.value.is_invalid_argument
    assert f"IMAGE: {len(picture)} bytes, at most {MAX_ENCODED_BYTES}" in caught.value.words


# ---- numbers ---------------------------------------------------------------------------------------------


def test_nan_in_a_served_generator_is_reported_not_shown_as_a_black_picture(start, tiny_bundle, tmp_path):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    proto = onnx.load(bundle / "generator.onnx")
    [weights] = [tensor for tensor in proto.graph.initializer if tensor.name == "from_noise"]
    spoilt = numpy_helper.to_array(weights) * np.float32("nan")
    weights.CopyFrom(numpy_helper.from_array(spoilt, weights.name))
    onnx.save(proto, bundle / "generator.onnx")
    manifest = Manifest.read(bundle)
    replace(manifest, files=describe_files(bundle)).write(bundle)
    server = start(bundle)
    with Pipeline.connect(server.grpc_url) as pipe, pytest.raises(NumericsError, match="the mark of NaN"):
        pipe.generate(PHOTO)
    canary = json.loads((server.repository / CANARY_NAME).read_text())
    with pytest.raises(ServiceError, match="image 0 of 1 is black throughout, the mark of NaN"):
        server.call(f"v2/models/{CANARY_MODEL}/generate", canary)


# ---- the clock -------------------------------------------------------------------------------------------


def test_the_watchdog_does_not_look_at_the_time_of_day(server, monkeypatch):
    def forbidden() -> float:
        raise AssertionError("the time of day jumps")

    monkeypatch.setattr(time, "time", forbidden)
    assert Watchdog(server).check() == []


@pytest.mark.skipif(
    not FAKE_CLOCK.exists(), reason="no library to turn the clock: apt-get install libfaketime"
)
def test_a_clock_that_jumps_by_years_costs_no_request(environment, tiny_bundle, tmp_path, monkeypatch):
    """The time of day of the server and its stages goes ten years ahead and twenty back, under load."""
    write_repository(tiny_bundle, tmp_path / "model_repository", RepositoryOptions(), conftest.quiet)
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    turned = {
        "LD_PRELOAD": str(FAKE_CLOCK),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # a jump moves the time of day, not the one that only grows
    }
    with monkeypatch.context() as patch:
        for name, value in turned.items():
            patch.setenv(name, value)
        server = Server(tmp_path / "model_repository", environment)
    right = expected(tiny_bundle)
    reports: list[str] = []
    with server:
        server.wait_until_ready()
        with Watchdog(server, reports.append, period_s=0.2), Load(server) as load:
            for jump in ("+3650d", "-3650d", "+0"):
                count = len(load.pictures)
                load.until(lambda load, count=count: len(load.pictures) >= count + 8)
                clock.write_text(f"{jump}\n")
            count = len(load.pictures)
            load.until(lambda load, count=count: len(load.pictures) >= count + 8)
    assert load.errors == []
    assert reports == []
    assert all(np.abs(picture - right).max() <= 1 for _, picture in load.pictures)


# ---- `icgan serve` ---------------------------------------------------------------------------------------


@pytest.fixture
def icgan(environment, tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Returns a function that starts `icgan serve` with stderr where it is told."""
    started: list[subprocess.Popen[str]] = []

    def start(bundle: Path, *flags: str, stderr: int | None = None) -> subprocess.Popen[str]:
        ports = free_ports()
        where = ["--http-port", ports.http, "--grpc-port", ports.grpc, "--metrics-port", ports.metrics]
        process = command(
            environment,
            tmp_path / "cache",
            "serve",
            bundle,
            *where,
            "--json",
            *flags,
            background=True,
            stderr=stderr,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_full_disk_under_the_log_costs_lines_but_not_the_service(icgan, tiny_bundle):
    with open("/dev/full", "w") as full:
        process = icgan(tiny_bundle, "--log", "info", stderr=full.fileno())
    url = json.loads(process.stdout.readline())["grpc"]
    right = expected(tiny_bundle)
    with Pipeline.connect(url, retries=0, timeout_s=20) as pipe:

        def answers() -> bool:
            try:
                picture = pipe.generate(PHOTO, seed=4, condition="nearest").images[0]
            except IcganError:
                return False
            assert np.abs(picture - right).max() <= 1
            return True

        def is_replaced(killed: int) -> bool:
            return not lives(killed) and answers()

        for stage in ("icgan_condition", "icgan_preprocess"):  # the second: the watchdog outlived a report
            processes = descendants(process.pid).items()
            victim = next(pid for pid, words in processes if STUB in words and f"/{stage}/" in words)
            os.kill(victim, signal.SIGKILL)
            wait_until(partial(is_replaced, victim), within_s=60, why=f"{stage} does not come back")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 0


def test_told_to_end_while_it_loads_it_leaves_no_process_and_no_file(icgan, tiny_bundle, tmp_path):
    process = icgan(tiny_bundle, stderr=subprocess.DEVNULL)
    wait_until(lambda: any(STUB in words for words in descendants(process.pid).values()), process)
    below = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) in (0, 130)
    assert not [words for pid, words in below.items() if lives(pid)]
    assert list((tmp_path / "cache" / "icgan").iterdir()) == []


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (signal.SIGKILL, "was ended by SIGKILL (out of memory?)"),
        (signal.SIGABRT, "was ended by SIGABRT: Signal (6) received."),
    ],
)
def test_a_server_that_dies_ends_the_command_so_that_a_supervisor_can_start_it_again(
    icgan, tiny_bundle, tmp_path, how, words
):
    process = icgan(tiny_bundle, stderr=subprocess.PIPE)
    assert process.stdout.readline()
    below = descendants(process.pid)
    os.kill(next(pid for pid, line in below.items() if "bin/tritonserver " in line), how)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == f"icgan: tritonserver {words}"
    assert "Traceback" not in errors
    assert not [line for pid, line in below.items() if lives(pid)]
    assert list((tmp_path / "cache" / "icgan").iterdir()) == []
