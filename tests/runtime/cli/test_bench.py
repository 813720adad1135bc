"""`icgan bench`: what it asks to be measured, and its two reports."""

from __future__ import annotations

import json
from pathlib import Path

from tests.runtime.cli.common import PHOTO


def test_bench_says_what_each_runner_runs_on(icgan, tiny_bundle):
    status, printed, progress = icgan("bench", tiny_bundle, "--rounds", 1, "--batches", 1, "--json")
    assert status == 0
    assert "runner onnxruntime: ort-cpu on CPUExecutionProvider, fp32\n" in progress
    runners = json.loads(printed.splitlines()[-1])["runners"]
    assert runners == {"onnxruntime": "ort-cpu on CPUExecutionProvider, fp32"}


def test_bench_measures_what_is_asked_for_and_prints_its_table_or_json_if_asked_for(
    icgan, monkeypatch, tmp_path
):
    asked: list[object] = []

    def bench(*arguments: object, progress: object, **options: object) -> dict[str, object]:
        asked.append((*arguments, options))
        progress("round 1")  # type: ignore[operator]
        return {"rows": 1}

    monkeypatch.setattr("icgan_runtime.bench.bench", bench)
    monkeypatch.setattr("icgan_runtime.bench.table", lambda report: f"a table of {report['rows']}")
    flags = ["--against", " torch, onnxruntime,", "--batches", "1, 4", "--rounds", 3, "--threads", 2]
    status, printed, progress = icgan("bench", "B", *flags, "--out", tmp_path / "report")
    assert (status, printed, progress) == (0, "a table of 1\n", "round 1\n")
    wanted = {"batches": [1, 4], "rounds": 3, "threads": 2}
    assert asked == [("B", ["torch", "onnxruntime"], wanted)]
    assert json.loads((tmp_path / "report" / "bench.json").read_text()) == {"rows": 1}
    assert (tmp_path / "report" / "bench.json").read_text().endswith("}\n")
    assert (tmp_path / "report" / "bench.txt").read_text() == "a table of 1\n"
    assert icgan("bench", "B", *flags, "--json")[1] == '{"rows": 1}\n'
    asked.pop()
    status, printed, complaint = icgan("bench", "B", "--batches", "1,two")
    assert (status, printed) == (1, "")
    assert complaint == "icgan: batches: 'two', expected whole numbers separated by commas\n"


def test_bench_of_a_server_sends_it_the_picture(icgan, monkeypatch):
    asked: list[object] = []

    def measure(*arguments: object, progress: object, **options: object) -> dict[str, object]:
        asked.append((*arguments, options))
        progress("Offline")  # type: ignore[operator]
        return {"scenarios": {}}

    monkeypatch.setattr("icgan_runtime.load.measure", measure)
    monkeypatch.setattr("icgan_runtime.load.table", lambda report: "a table")
    found = icgan("bench", "--url", "grpc://a:1", PHOTO, "--seconds", 3)
    assert found == (0, "a table\n", "Offline\n")
    assert asked == [("grpc://a:1", Path(PHOTO).read_bytes(), {"seconds": 3.0, "connection": {}})]
