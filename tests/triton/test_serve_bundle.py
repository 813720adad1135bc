"""`icgan serve`: one command from a bundle to a service, and an orderly end."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.errors import UnavailableError
from icgan_runtime.server.environment import ENVIRONMENT_VARIABLE
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.process import free_ports
from icgan_runtime.server.repository import add_release, write_repository
from tests.models.make_models import make_bundle
from tests.triton.conftest import ROOT, quiet
from tests.triton.test_icgan import PHOTO

FOLDERS = os.pathsep.join(str(ROOT / name) for name in ("runtime", "export", "training"))


@pytest.fixture
def icgan(environment, tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Returns a function that starts the command; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, background: bool = False) -> subprocess.Popen[str]:
        started.append(command(environment, tmp_path, *arguments, background=background))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def command(
    environment, cache: Path, *arguments: object, background: bool, stderr: int | None = subprocess.PIPE
) -> subprocess.Popen[str]:
    variables = {
        **os.environ,
        ENVIRONMENT_VARIABLE: str(environment.python.parents[1]),
        "PYTHONPATH": FOLDERS,
        "XDG_CACHE_HOME": str(cache),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "icgan_runtime", *map(str, arguments)],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        # a script's background jobs are started with Ctrl-C ignored; these tests may be such a job
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.SIG_DFL),
    )


def test_a_bundle_is_served_until_ctrl_c(icgan, tiny_bundle, tmp_path):
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    ports = free_ports()
    flags = ["--http-port", ports.http, "--grpc-port", ports.grpc, "--metrics-port", ports.metrics, "--json"]
    process = icgan("serve", tiny_bundle, *flags)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    with Pipeline.connect(json.loads(line)["grpc"]) as pipe:
        assert len(pipe.generate(PHOTO, n=2).images) == 2
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert list((tmp_path / "icgan").iterdir()) == [], "the repository in the cache is gone"


def test_told_to_end_under_load_it_answers_or_refuses_every_request(icgan, tiny_bundle):
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    ports = free_ports()
    flags = ["--http-port", ports.http, "--grpc-port", ports.grpc, "--metrics-port", ports.metrics, "--json"]
    process = icgan("serve", tiny_bundle, *flags, background=True)
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["grpc"]
    with Pipeline.load(tiny_bundle) as local:
        expected = local.generate(PHOTO, n=2).images.astype(int)
    answered = threading.Semaphore(0)

    def client(_: int) -> str:
        with Pipeline.connect(url, retries=0, timeout_s=60) as pipe:
            while True:
                try:
                    images = pipe.generate(PHOTO, n=2).images
                except UnavailableError:
                    return "refused"
                assert np.abs(images - expected).max() <= 1
                answered.release()

    with ThreadPoolExecutor(8) as pool:
        outcomes = pool.map(client, range(8))
        for _ in range(32):
            answered.acquire()
        process.send_signal(signal.SIGTERM)
        assert list(outcomes) == ["refused"] * 8
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def test_a_swap_is_rehearsed_on_a_repository_served_here(icgan, tiny_bundle, tmp_path, monkeypatch):
    """As docs/serving.md says it, with its curl."""
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    monkeypatch.setenv("ICGAN_CONTROL_KEY", "secret")
    repository = tmp_path / "model_repository"
    write_repository(tiny_bundle, repository, RepositoryOptions(), quiet)
    other = make_bundle(tmp_path / "other", seed=5)
    page = (ROOT / "docs" / "serving.md").read_text()
    [line] = re.findall(r"^    (while read .*)$", page, re.MULTILINE)
    ports = free_ports()
    flags = ["--http-port", ports.http, "--grpc-port", ports.grpc, "--metrics-port", ports.metrics, "--json"]
    process = icgan("serve", repository, *flags)
    assert process.stdout is not None
    addresses = json.loads(process.stdout.readline() or process.communicate()[1])

    def answered_by(bundle: Path) -> None:
        with Pipeline.load(bundle) as local, Pipeline.connect(addresses["grpc"]) as remote:
            here, there = (pipe.generate(PHOTO, n=2) for pipe in (local, remote))
        assert np.abs(here.images.astype(int) - there.images).max() <= 1
        np.testing.assert_allclose(here.neighbours.scores, there.neighbours.scores, atol=1e-6)

    def load(models: list[str], key: str) -> int:
        script = line.replace("http://localhost:8000", addresses["http"])
        loads = "".join(f"POST v2/repository/models/{model}/load\n" for model in models)
        variables = {**os.environ, "ICGAN_CONTROL_KEY": key}
        done = subprocess.run(["bash", "-c", script], input=loads, text=True, env=variables)
        return done.returncode

    answered_by(tiny_bundle)
    loads = add_release(other, repository, quiet)
    assert load(loads, "a stranger's") != 0
    answered_by(tiny_bundle)
    assert load(loads, "secret") == 0
    answered_by(other)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert (repository / "icgan.json").is_file(), "what was served stays"


def test_a_port_in_use_is_one_line(icgan, server, tiny_bundle):
    taken = server.options.ports
    process = icgan("serve", tiny_bundle, "--http-port", taken.http)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output == ""
    assert (
        errors == f"icgan: port {taken.http} of 127.0.0.1 is taken by another program; choose another one\n"
    )


def test_a_folder_that_is_no_bundle_is_one_line(icgan, tmp_path):
    process = icgan("serve", tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.startswith("icgan: ")
    assert errors.count("\n") == 1
    assert "manifest.json" in errors


def test_generate_on_a_server_needs_no_bundle(icgan, server, tmp_path):
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    sheet = tmp_path / "grid.png"
    flags = ["--url", server.grpc_url, tmp_path / "photo.jpg", "-n", 4, "--out", sheet, "--json"]
    process = icgan("generate", *flags)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(output)["n"] == 4
    assert sheet.stat().st_size > 0


def test_an_absent_server_is_one_line(icgan, tmp_path):
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    address = f"http://127.0.0.1:{free_ports().http}"
    process = icgan("embed", "--url", address, tmp_path / "photo.jpg", "--json")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.startswith(f"icgan: {address}")
    assert errors.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_no_stage_is_told_of_the_key_that_signs_its_files(icgan, tiny_bundle, tmp_path, monkeypatch):
    pytest.importorskip("c2pa")
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    from icgan_runtime.marks.mark import KEY_VARIABLE, read_marks
    from tests.runtime.marks.certificates import write_signer

    key, authority = write_signer(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, str(key))
    ports = free_ports()
    flags = ["--http-port", ports.http, "--grpc-port", ports.grpc, "--metrics-port", ports.metrics, "--json"]
    process = icgan("serve", tiny_bundle, *flags)
    line = process.stdout.readline()
    assert line, process.stderr.read()
    family = [int(each) for each in children(process.pid)]
    stages = [int(each) for server in family for each in children(server)]
    told = {each: Path(f"/proc/{each}/cmdline").read_bytes() for each in (*family, *stages)}
    assert any(b"/icgan_picture/" in words for words in told.values())
    assert any(b"/icgan_preprocess/" in words for words in told.values())
    secret = key.read_bytes().split(b"\n")[1]
    for each, words in told.items():
        everything = words + Path(f"/proc/{each}/environ").read_bytes()
        assert str(key).encode() not in everything
        assert secret not in everything
        opened = [os.readlink(link) for link in Path(f"/proc/{each}/fd").iterdir()]
        assert str(key) not in opened
    key.unlink()  # read once: from here on no path leads to it
    body = {**json.loads(CANARY_ROWS), "IMAGE": base64.b64encode(PHOTO).decode()}
    address = f"{json.loads(line)['http']}/v2/models/icgan_file/generate"
    with urllib.request.urlopen(urllib.request.Request(address, data=json.dumps(body).encode())) as response:
        file = base64.b64decode(json.loads(response.read())["PICTURE"])
    marks = read_marks(file, authority)
    assert marks.signature is not None
    assert (marks.signature["state"], marks.claim.seed) == ("Trusted", 5)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0


CANARY_ROWS = '{"SEED": 5, "SAMPLE": 0, "TRUNCATION": 1.0, "CONDITION": 0, "FORMAT": "image/png;base64"}'


def children(process: int) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()
