"""`icgan info`: what a bundle holds, and whether it is sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import icgan_runtime


def test_info_names_what_matters(icgan, tiny_bundle):
    _, printed, _ = icgan("info", tiny_bundle)
    for part in ("tiny 1: 8 × 8", "CC0-1.0", "opset 18", "MatMul 2", "bank       20 instances", "k = 5"):
        assert part in printed
    _, printed, _ = icgan("info", tiny_bundle, "--json")
    facts = json.loads(printed)
    assert facts["graphs"][0]["operators"]["MatMul"] == 1
    assert facts["unlisted_files"] == []


def test_info_verify_passes_a_sound_bundle_and_fails_a_damaged_one(icgan, tiny_bundle, copy_bundle):
    status, printed, _ = icgan("info", "--verify", tiny_bundle)
    assert (status, printed.splitlines()[-1]) == (0, "20 checks, 0 failed")
    bundle = copy_bundle(tiny_bundle)
    (bundle / "README.md").write_text("# tinY\n")
    status, printed, _ = icgan("info", "--verify", bundle)
    assert status == 1
    assert "FAILED README.md: README.md: SHA-256" in printed
    assert printed.splitlines()[-1] == "20 checks, 1 failed"
    status, printed, _ = icgan("info", "--verify", "--json", bundle)
    assert json.loads(printed)["passed"] is False


def test_a_strangers_text_does_not_reach_the_terminal_as_commands(icgan, tiny_bundle, copy_bundle):
    bundle = copy_bundle(tiny_bundle)
    (bundle / "a\x1b[2J\tb").write_text("clears the screen")
    (bundle / "c\udcff").write_text("no UTF-8")
    _, printed, _ = icgan("info", bundle)
    assert printed.endswith("never used: a\\u001b[2J\tb, c\\udcff\n")
    assert icgan("embed", tiny_bundle, "\x9b2J.jpg", "--json")[2].startswith(
        "icgan: picture: \\u009b2J.jpg: "
    )


def test_a_terminal_without_our_signs_gets_escapes(tiny_bundle):
    done = subprocess.run(
        [sys.executable, "-m", "icgan_runtime", "info", tiny_bundle],
        capture_output=True,
        text=True,
        cwd=Path(icgan_runtime.__file__).parents[1],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny 1: 8 \\xd7 8 images")
