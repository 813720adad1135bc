"""The short version of `make chaos`: clients, good and bad, while stages of the real server are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from icgan_runtime.server.environment import ENVIRONMENT_VARIABLE
from tests.triton.conftest import ROOT, environment, monkeypatch_session
from tests.triton.test_serve_bundle import FOLDERS

__all__ = ["environment", "monkeypatch_session"]  # fixtures


def test_a_killed_stage_costs_requests_but_never_gives_a_wrong_picture(environment, tiny_bundle, tmp_path):
    photos = sorted((ROOT / "examples" / "photos").glob("*.jpg"))[:2]
    options = ["--clients", "8", "--minutes", "0.3", "--kill-every", "6"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.abuse.soak", str(tiny_bundle), *map(str, photos), *options],
        cwd=ROOT,
        env={
            **os.environ,
            ENVIRONMENT_VARIABLE: str(environment.python.parents[1]),
            "PYTHONPATH": os.pathsep.join([FOLDERS, str(ROOT)]),
            "XDG_CACHE_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["outcomes"]["right"] > 20
    assert report["outcomes"]["refused"] > 0
    assert report["outcomes"]["stages killed"] >= 2
    assert report["seconds_until_back"], "right answers again after a kill"
