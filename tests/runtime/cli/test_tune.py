"""`icgan tune`: what it asks the search for, prints and writes."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest

from icgan_runtime.cli.tune import duration
from icgan_runtime.server.options import for_cores
from icgan_runtime.server.repository import read_options
from icgan_runtime.tune.measure import Point
from icgan_runtime.tune.search import Found


@pytest.fixture
def searched(monkeypatch):
    """What the search is asked, which finds that three generators are better."""
    asked = SimpleNamespace(goal=None, exact=None)

    async def tune(space, defaults, goal, stage, progress):
        asked.goal = goal
        best = dataclasses.replace(defaults, generators=3)
        points = [
            Point(options, 2, 8, 1.0, (0.02,) * count) for options, count in ((defaults, 10), (best, 14))
        ]
        progress("generators: 1.40 times the best so far")
        final = {"defaults": points[0], "best": points[1]}
        return Found(defaults, best, points, final, goal.p99_s, 1.4, ["not tried: something"])

    monkeypatch.setattr("icgan_runtime.tune.search.tune", tune)
    monkeypatch.setattr("icgan_runtime.server.environment.find_environment", lambda: None)
    return asked


def test_the_best_settings_become_a_repository(icgan, searched, tiny_bundle, tmp_path):
    out = tmp_path / "model_repository"
    status, printed, progress = icgan("tune", tiny_bundle, "--p99", "50ms", "--minutes", 3, "--out", out)
    assert status == 0
    assert "generators: 1.40 times the best so far" in progress
    assert (searched.goal.p99_s, searched.goal.minutes) == (0.05, 3)
    assert read_options(out).generators == 3
    assert "not tried: something" in printed
    assert printed.splitlines()[-2:] == [
        f"wrote {out} with --generators 3, 1.40 times the images/s of the defaults",
        f"  icgan serve {out}",
    ]


def test_the_report_as_json(icgan, searched, tiny_bundle, tmp_path):
    out = tmp_path / "model_repository"
    _, printed, _ = icgan("tune", tiny_bundle, "--p99", "50ms", "--out", out, "--json")
    report = json.loads(printed)
    assert report["best"] == "--generators 3"
    assert report["times_the_defaults"] == 1.4
    assert report["final"]["best"]["images_per_second"] == 8 * 14
    assert report["repository"] == str(out)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--minutes", "0"], "minutes: 0, expected more than 0"),
        (["-n", "33"], "n: 33, expected 1..32"),
        (["-n", "0"], "n: 0, expected 1..32"),
    ],
)
def test_a_wrong_number_is_one_line_before_any_work(icgan, tmp_path, flags, complaint):
    asked = ["tune", tmp_path / "absent", "--p99", "50ms", "--out", tmp_path / "out", *flags]
    assert icgan(*asked) == (1, "", f"icgan: {complaint}\n")


def test_what_is_there_is_not_written_over(icgan, searched, tiny_bundle, tmp_path):
    status, _, complaint = icgan("tune", tiny_bundle, "--p99", "50ms", "--out", tmp_path)
    assert (status, complaint) == (1, f"icgan: out: {tmp_path} exists: name a new folder\n")


@pytest.mark.parametrize(("text", "seconds"), [("50ms", 0.05), ("0.2s", 0.2), ("1", 1), (".5 s", 0.5)])
def test_a_time_is_written_with_its_unit(text, seconds):
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "0ms", "-1s", "5m", "1e3s", "nan"])
def test_what_is_no_time_is_refused(icgan, tmp_path, text, capsys):
    with pytest.raises(SystemExit, match="2"):
        icgan("tune", "B", f"--p99={text}", "--out", tmp_path / "out")
    assert "is no time: 50ms, 0.2s" in capsys.readouterr().err


def test_the_defaults_are_those_of_icgan_serve(icgan, searched, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("icgan_runtime.cli.tune.usable_cpus", lambda: 5)
    out = tmp_path / "model_repository"
    icgan("tune", tiny_bundle, "--p99", "50ms", "--out", out)
    assert read_options(out) == dataclasses.replace(for_cores(5), generators=3)
