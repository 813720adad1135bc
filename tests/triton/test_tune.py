"""`icgan tune` against real servers of a tiny bundle."""

from __future__ import annotations

import json

import pytest

from icgan_runtime.cli import main
from icgan_runtime.cpus import usable_cpus
from icgan_runtime.server.options import for_cores
from icgan_runtime.server.repository import read_options
from icgan_runtime.tune import space as spaces


def test_real_servers_are_tried_and_the_best_settings_are_written(
    environment, tiny_bundle, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    monkeypatch.setattr(spaces, "CPU_BACKENDS", ("onnxruntime",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "model_repository"
    asked = [
        "tune",
        str(tiny_bundle),
        "--p99",
        "5s",
        "-n",
        "2",
        "--minutes",
        "0.1",
        "--out",
        str(out),
        "--json",
    ]
    assert main(asked) == 0
    printed, progress = capsys.readouterr()
    report = json.loads(printed)
    assert "times the best so far" in progress
    assert all(row["requests"] > 0 and row["images_per_second"] > 0 for row in report["front"])
    assert any(note.startswith("no time left for ") for note in report["notes"])
    assert (report["best"] == "defaults") == (read_options(out) == for_cores(usable_cpus()))
    assert list((tmp_path / "cache" / "icgan").iterdir()) == [], "the servers' repositories are gone"
