import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from icgan_runtime import bench
from icgan_runtime.cli import main
from icgan_runtime.errors import BundleError, RequestError


def test_competitors_take_turns_in_rotating_order():
    calls = []
    ticks = itertools.count()
    work = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    timings = bench.interleave(work, rounds=4, warm_up=1, clock=lambda: float(next(ticks)))
    rounds = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert rounds == ["cab", "abc", "bca", "cab", "abc"]
    assert timings["a"].seconds == (1.0, 1.0, 1.0, 1.0)


def test_a_ratio_is_taken_within_rounds_so_a_slow_spell_cancels():
    slow_spell = np.array([1, 1, 10, 10, 1])
    fast, slow = bench.Timing(tuple(slow_spell * 1.0)), bench.Timing(tuple(slow_spell * 2.0))
    assert fast.ratio(slow) == 2
    assert slow.ratio(fast) == 0.5
    assert fast.median == 1
    assert fast.quartiles == (1, 10)
    assert bench.Timing((3.0,)).quartiles == (3, 3)


def test_the_report_times_and_checks_every_route(labelled_bundle):
    report = bench.bench(
        labelled_bundle, ["onnxruntime", "onnxruntime:fp32"], batches=[1, 3], rounds=2, threads=1
    )
    assert [(row["stage"], row["batch"], row["route"]) for row in report["rows"]] == [
        (stage, batch, route)
        for batch in (1, 3)
        for stage in ("encoder", "generator")
        for route in ("onnxruntime", "onnxruntime:fp32")
    ]
    assert all(row["median_ms"] > 0 and row["apart"] < 1e-6 for row in report["rows"])
    assert all(row["times_faster"] == 1 for row in report["rows"] if row["route"] == "onnxruntime")


def test_a_route_that_paints_another_picture_shows_it(tiny_bundle, monkeypatch):
    class Black:
        def embed(self, image):
            return np.eye(12, dtype=np.float32)[: len(image)]

        def generate(self, feeds):
            return np.zeros((len(feeds["noise"]), 8, 8, 3), np.uint8)

    point = SimpleNamespace(name="black", load=lambda: lambda path, threads: Black())
    monkeypatch.setattr(bench, "entry_points", lambda group: [point])
    report = bench.bench(tiny_bundle, ["onnxruntime", "black"], batches=[1], rounds=1, threads=1)
    apart = {(row["stage"], row["route"]): row["apart"] for row in report["rows"]}
    assert apart["generator", "black"] > 100
    assert apart["encoder", "black"] > 0.1


def test_the_command_prints_a_table_and_ends_in_json(tiny_bundle, tmp_path, capsys):
    arguments = [
        "bench",
        str(tiny_bundle),
        "--rounds",
        "1",
        "--batches",
        "2",
        "--out",
        str(tmp_path / "report"),
    ]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["stage", "batch", "route"]
    assert json.loads(lines[-1]) == json.loads((tmp_path / "report" / "bench.json").read_text())
    assert (tmp_path / "report" / "bench.txt").read_text().startswith("stage")


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["tpu"], {}, "against: 'tpu', expected some of onnxruntime, onnxruntime-cuda, openvino"),
        ([], {}, "none may be empty"),
        (["onnxruntime"], {"batches": [0]}, "none may be empty"),
        (["onnxruntime"], {"rounds": 0}, "none may be empty"),
    ],
)
def test_a_comparison_of_nothing_is_refused(tiny_bundle, names, options, message):
    with pytest.raises(RequestError, match=message):
        bench.bench(tiny_bundle, names, **options)


def test_a_precision_that_is_not_there_is_refused(tiny_bundle):
    with pytest.raises(BundleError, match="no encoder graph at int8"):
        bench.bench(tiny_bundle, ["onnxruntime:int8"])
