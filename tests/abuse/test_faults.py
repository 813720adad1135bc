"""The short version of `make faults`: some steps of every command, killed and with a full disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVERY = {
    "prepare": 25,
    "fit": 90,
    "bundle": 40,
    "engine": 8,
    "triton": 110,
    "add": 45,
    "release": 6,
    "synthesize": 25,
    "bank-add": 1,
    "bank-remove": 1,
    "bank-compact": 9,
}


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")
@pytest.mark.parametrize("case", EVERY)
def test_a_command_that_is_killed_or_out_of_space_leaves_nothing_half_done_and_finishes_when_repeated(case):
    done = subprocess.run(
        [sys.executable, "-m", "tests.abuse.faults", case, "--every", str(EVERY[case])],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout)["cases"][case]
    assert report["tried"] > 5
    assert report["refused"] > 0
