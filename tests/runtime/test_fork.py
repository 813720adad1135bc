"""A pipeline in a process forked after it was opened, as by `gunicorn --preload` and multiprocessing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
