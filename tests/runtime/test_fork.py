"""A pipeline in a process forked after it was opened, as by `gunicorn --preload` and multiprocessing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.golden.make_commands import OUT

PHOTO = OUT.parent / "photo.jpg"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PROGRAM = """
import gc, os, signal, sys
from icgan_runtime import Pipeline
from icgan_runtime.errors import BackendError

pipe = Pipeline.load(sys.argv[1], threads=2)
embedding = pipe.bank.embeddings[:1]
before = pipe.generate_from(embedding, n=2).images
child = os.fork()
if child == 0:
    signal.alarm(60)  # a child that waits for threads it does not have would wait for ever
    try:
        pipe.generate_from(embedding)
    except BackendError as error:
        print(error, flush=True)
    pipe.close()
    del pipe
    gc.collect()
    os._exit(0)  # as multiprocessing ends its children
_, status = os.waitpid(child, 0)
assert (pipe.generate_from(embedding, n=2).images == before).all(), "the parent goes on"
print(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_is_told_to_open_its_own_and_frees_nothing_of_its_parents(tiny_bundle):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(tiny_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    complaint, status = done.stdout.splitlines()
    assert "forked from it: open one in each worker process" in complaint
    assert status == "0"


UNDER_ASYNCIO = """
import asyncio, os, signal, sys
from icgan_runtime import AsyncPipeline
from icgan_runtime.errors import BackendError

loop = asyncio.new_event_loop()
pipe = loop.run_until_complete(AsyncPipeline.connect(sys.argv[1]))
picture = open(sys.argv[2], "rb").read()
before = loop.run_until_complete(pipe.embed(picture))
child = os.fork()
if child == 0:
    signal.alarm(60)
    try:
        asyncio.new_event_loop().run_until_complete(pipe.embed(picture))
    except BackendError as error:
        print(error, flush=True)
    asyncio.new_event_loop().run_until_complete(pipe.close())
    os._exit(0)
_, status = os.waitpid(child, 0)
assert (loop.run_until_complete(pipe.embed(picture)) == before).all(), "the parent goes on"
print(os.waitstatus_to_exitcode(status))
loop.run_until_complete(pipe.close())
"""


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_connection_of_asyncio_is_told_the_same(tiny_bundle, protocol):
    pytest.importorskip(f"tritonclient.{protocol}", reason="pip install 'icgan[triton]'")
    from tests.runtime.stand_in import StandIn

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with StandIn(tiny_bundle) as server:
        command = [sys.executable, "-c", UNDER_ASYNCIO, server.url(protocol), str(PHOTO)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    complaint, status = done.stdout.splitlines()
    assert "forked from it: open one in each worker process" in complaint
    assert status == "0"
