import itertools
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from icgan_runtime import bench
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.cli import main
from icgan_runtime.errors import BundleError, RequestError
from icgan_runtime.latents import noise


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


def test_the_report_times_and_checks_every_runner(labelled_bundle):
    report = bench.bench(
        labelled_bundle, ["onnxruntime", "onnxruntime:fp32"], batches=[1, 3], rounds=2, threads=1
    )
    assert [(row["stage"], row["batch"], row["runner"]) for row in report["rows"]] == [
        (stage, batch, runner)
        for batch in (1, 3)
        for stage in ("encoder", "generator")
        for runner in ("onnxruntime", "onnxruntime:fp32")
    ]
    assert all(row["median_ms"] > 0 and row["apart"] < 1e-6 for row in report["rows"])
    assert all(row["times_faster"] == 1 for row in report["rows"] if row["runner"] == "onnxruntime")


def test_a_runner_that_paints_another_picture_shows_it(tiny_bundle, monkeypatch):
    class Black:
        runs_on = "ink"

        def embed(self, image):
            return np.eye(12, dtype=np.float32)[: len(image)]

        def generate(self, feeds):
            return np.zeros((len(feeds["noise"]), 8, 8, 3), np.uint8)

    point = SimpleNamespace(name="black", load=lambda: lambda path, threads, rest: Black())
    monkeypatch.setattr(bench, "entry_points", lambda group: [point])
    report = bench.bench(tiny_bundle, ["onnxruntime", "black"], batches=[1], rounds=1, threads=1)
    apart = {(row["stage"], row["runner"]): row["apart"] for row in report["rows"]}
    assert apart["generator", "black"] > 100
    assert apart["encoder", "black"] > 0.1


class Fake:
    """A runner that gives one answer for every row."""

    runs_on = "paper"
    bytes_on_disk: int | None = None

    def __init__(self, component: float, grey: int) -> None:
        self.component, self.grey = component, grey

    def embed(self, image):
        return np.full((len(image), 12), self.component, np.float32)

    def generate(self, feeds):
        assert feeds["label"].shape == (len(feeds["noise"]),)
        return np.full((len(feeds["noise"]), 8, 8, 3), self.grey, np.uint8)


def test_a_row_says_how_fast_and_how_far_apart_from_the_first_runner(labelled_bundle, monkeypatch):
    offered = {"ours": Fake(0.5, 100), "theirs": Fake(0.25, 130)}
    points = [
        SimpleNamespace(name=name, load=lambda fake=fake: lambda path, threads, rest: fake)
        for name, fake in offered.items()
    ]
    monkeypatch.setattr(bench, "entry_points", lambda group: points if group == "icgan.bench" else [])
    asked = []

    def timed(work, rounds):
        asked.append((list(work), rounds))
        return {"ours": bench.Timing((0.04, 0.02, 0.03)), "theirs": bench.Timing((0.02, 0.01, 0.03))}

    monkeypatch.setattr(bench, "interleave", timed)
    clock = iter([0.0, 0.01, 0.03, 1.0, 1.01, 1.03])
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    offered["theirs"].bytes_on_disk = 1_500_000
    said: list[str] = []
    report = bench.bench(
        labelled_bundle, ["ours", "theirs"], batches=[3], rounds=7, threads=5, progress=said.append
    )
    model = Bundle.open(labelled_bundle).manifest.model
    ours = {"median_ms": 30.0, "first_quartile_ms": 25.0, "third_quartile_ms": 35.0, "batch": 3}
    theirs = {"median_ms": 20.0, "first_quartile_ms": 15.0, "third_quartile_ms": 25.0, "batch": 3}
    base = {"runner": "ours", "images_per_second": 100.0, "times_faster": 1.0, "apart": 0.0}
    other = {"runner": "theirs", "images_per_second": 150.0, "times_faster": 1.5}
    assert report == {
        "model": "tiny",
        "identity": model.identity,
        "threads": 5,
        "rounds": 7,
        "runners": {"ours": "paper", "theirs": "paper"},
        "starts": {
            "ours": {"megabytes": None, "load_ms": 10.0, "first_picture_ms": 20.0},
            "theirs": {"megabytes": 1.5, "load_ms": 10.0, "first_picture_ms": 20.0},
        },
        "rows": [
            {"stage": "encoder", **ours, **base, "psnr": None},
            {"stage": "encoder", **theirs, **other, "apart": 0.25, "psnr": None},
            {"stage": "generator", **ours, **base, "psnr": 99.0},
            {"stage": "generator", **theirs, **other, "apart": 30.0, "psnr": 18.59},
        ],
    }
    assert asked == [(["ours", "theirs"], 7)] * 2
    assert said == [
        "runner ours: paper",
        "runner theirs: paper",
        "encoder, batch 3: 7 rounds of ours, theirs",
        "generator, batch 3: 7 rounds of ours, theirs",
    ]
    assert bench.table(report).splitlines() == [
        "runner  MB   load ms  first picture ms",
        "ours         10       20.0",
        "theirs  1.5  10       20.0",
        "",
        "stage      batch  runner  median ms  quartiles ms    img/s  ratio  apart  PSNR",
        "encoder    3      ours    30.00      25.00 .. 35.00  100.0  1.00   0",
        "encoder    3      theirs  20.00      15.00 .. 25.00  150.0  1.50   0.25",
        "generator  3      ours    30.00      25.00 .. 35.00  100.0  1.00   0      99.0",
        "generator  3      theirs  20.00      15.00 .. 25.00  150.0  1.50   30     18.6",
    ]


def test_times_are_reported_to_a_ten_thousandth_of_a_millisecond():
    third = bench.milliseconds(bench.Timing((1 / 3,)))
    assert third == dict.fromkeys(("median_ms", "first_quartile_ms", "third_quartile_ms"), 333.3333)


def test_every_comparison_is_fed_the_same_made_up_inputs(labelled_bundle):
    model = Bundle.open(labelled_bundle).manifest.model
    pictures, feeds = bench.make_inputs(model, 40)
    again, fed_again = bench.make_inputs(model, 40)
    np.testing.assert_array_equal(pictures, again)
    for name, array in feeds.items():
        np.testing.assert_array_equal(array, fed_again[name])
    assert pictures.dtype == np.uint8
    assert pictures.shape == (40, 8, 8, 3)
    assert (pictures.min(), pictures.max()) == (0, 255)
    np.testing.assert_array_equal(feeds["noise"], noise(0, np.arange(40), 1.0, 6))
    assert feeds["embedding"].dtype == np.float32
    assert feeds["embedding"].shape == (40, 12)
    np.testing.assert_allclose(np.linalg.norm(feeds["embedding"], axis=1), 1, rtol=1e-6)
    assert set(feeds["label"]) == {0, 1, 2}
    assert feeds["label"].dtype == np.int64


def test_a_model_without_classes_is_fed_no_labels(tiny_bundle):
    _, feeds = bench.make_inputs(Bundle.open(tiny_bundle).manifest.model, 2)
    assert sorted(feeds) == ["embedding", "noise"]


def test_the_command_prints_a_table_and_leaves_both_reports(tiny_bundle, tmp_path, capsys):
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
    assert lines[0].split() == ["runner", "MB", "load", "ms", "first", "picture", "ms"]
    assert lines[3].split()[:3] == ["stage", "batch", "runner"]
    assert lines[-1].startswith("generator")
    rows = json.loads((tmp_path / "report" / "bench.json").read_text())["rows"]
    assert [row["stage"] for row in rows] == ["encoder", "generator"]
    assert (tmp_path / "report" / "bench.txt").read_text().startswith("runner")


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["tpu"], {}, "against: 'tpu', expected some of onnxruntime, onnxruntime-cuda, openvino"),
        ([], {}, "against: no runner given"),
        (["onnxruntime"], {"batches": [0]}, r"batches: \[0\], expected sizes of at least 1"),
        (["onnxruntime"], {"batches": []}, r"batches: \[\], expected sizes of at least 1"),
        (["onnxruntime"], {"rounds": 0}, "rounds: 0, expected at least 1"),
        (["onnxruntime"], {"threads": -1}, "threads: -1, expected at least 1, or 0 for one per core"),
    ],
)
def test_a_comparison_of_nothing_is_refused(tiny_bundle, names, options, message):
    with pytest.raises(RequestError, match=message):
        bench.bench(tiny_bundle, names, **options)


def test_a_precision_that_is_not_there_is_refused(tiny_bundle):
    with pytest.raises(BundleError, match="no encoder graph at int8"):
        bench.bench(tiny_bundle, ["onnxruntime:int8"])


@pytest.mark.parametrize(
    ("module", "runner", "message"),
    [
        (
            "icgan_runtime.backends.ort",
            "onnxruntime",
            "onnxruntime is not installed: pip install 'icgan[cpu]'",
        ),
        ("torch", "torch", "torch is not installed: pip install 'icgan[export]'"),
    ],
)
def test_a_runner_whose_library_is_not_installed_is_one_line(
    tiny_bundle, monkeypatch, capsys, module, runner, message
):
    def load() -> object:
        import torch

        return torch

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(bench, "entry_points", lambda group: [SimpleNamespace(name="torch", load=load)])
    assert main(["bench", str(tiny_bundle), "--against", runner]) == 1
    assert capsys.readouterr().err == f"icgan: {message}\n"
