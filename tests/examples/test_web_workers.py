"""The application of docs/serving.md, "Forked processes", run by the programs that the page names."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from icgan_runtime.server.process import free_ports

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text()
ROUTE = """
import os
from starlette.responses import JSONResponse
from starlette.routing import Route

def draw(request):
    pipe = request.app.state.pipe
    images = pipe.generate_from(pipe.bank.embeddings[:1], n=2, seed=3).images
    return JSONResponse({"process": os.getpid(), "sum": int(images.sum())})

app.router.routes.append(Route("/", draw))
"""


def documented() -> tuple[str, list[list[str]]]:
    """The program of the page, and the commands that its first line names."""
    (program,) = (
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "gunicorn" in block
    )
    first = program.splitlines()[0]
    commands = re.findall(r"(?:gunicorn|uvicorn) [^,;]*app:app|uvicorn --workers 2 app:app", first)
    return program, [command.split() for command in commands]


PROGRAM, COMMANDS = documented()


def answers(url: str, server: subprocess.Popen[bytes]) -> tuple[set[int], set[int]]:
    """(processes, sums) of answers, asked for until two processes have answered."""
    processes, sums = set[int](), set[int]()
    deadline = time.monotonic() + 120
    while len(processes) < 2:
        assert time.monotonic() < deadline, f"answered by {processes} only"
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url) as response:
                answer = json.loads(response.read())
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)  # not yet
            continue
        processes.add(answer["process"])
        sums.add(answer["sum"])
    return processes, sums


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_worker_opens_a_pipeline_and_ends_when_it_is_asked_to(command, tiny_bundle, tmp_path):
    if importlib.util.find_spec(command[0]) is None:
        pytest.skip(f"pip install {command[0]}")
    (tmp_path / "app.py").write_text(PROGRAM.replace("bundles/demo", str(tiny_bundle)) + ROUTE)
    port = free_ports().http
    bind = ["--bind", f"127.0.0.1:{port}"] if command[0] == "gunicorn" else ["--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    started = [sys.executable, "-m", *command, *bind]
    with subprocess.Popen(started, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as server:
        try:
            processes, sums = answers(f"http://127.0.0.1:{port}/", server)
        finally:
            server.terminate()
            _, words = server.communicate(timeout=60)
    assert len(sums) == 1, "the same seed, the same images in each process"
    assert server.pid not in processes
    assert server.returncode in (0, -15), words.decode()
    assert b"Traceback" not in words
