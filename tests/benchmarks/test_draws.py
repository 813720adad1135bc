"""What is asked of a trained model: which rows there are, and that the command goes on where it stopped."""

import dataclasses
import importlib
import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import study
from icgan_training.networks.checkpoint import save_weights
from icgan_training.networks.generator import Generator
from icgan_training.networks.presets import preset
from icgan_training.score.features import FeatureNetwork
from icgan_training.score.subject import EvaluationSettings
from tests.training.conftest import make_prepared  # noqa: F401, a fixture

draws = importlib.import_module("benchmarks.draws")
CPU = torch.device("cpu")
BASE = EvaluationSettings(study.SCORES, samples=12, instances=0, reference=12)


def test_every_row_changes_one_thing_of_the_first() -> None:
    (_, first), *others = draws.rows(BASE)
    assert first == BASE
    assert len({name for name, _ in others}) == len(others)
    for _, settings in others:
        changed = {
            field.name
            for field in dataclasses.fields(EvaluationSettings)
            if getattr(settings, field.name) != getattr(BASE, field.name)
        }
        assert changed in ({"instances"}, {"instances", "choice"}, {"truncation"})


@pytest.fixture
def command(make_prepared, tmp_path, monkeypatch, capsys):  # noqa: F811
    """Runs the command on a tiny model; returns the lines there are then and what it printed."""
    data = make_prepared(resolution=32)
    network = FeatureNetwork("mean", "0" * 64, lambda pictures: pictures.float().mean((1, 2)), CPU)
    monkeypatch.setattr(draws, "judge", lambda *_: network)
    model = dataclasses.replace(preset("tiny").model, resolution=32)
    for name in ("first", "second"):
        run = tmp_path / name
        run.mkdir()
        (run / "config.json").write_text(json.dumps({"data": {"path": str(data)}}))
        save_weights(Generator(model).eval(), run / "generator.safetensors")

    def run_command(model: str, *options: str) -> tuple[list[dict[str, object]], str]:
        out = tmp_path / "out"
        words = [str(tmp_path / model), str(data), "--samples", "12", "--reference", "12", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["draws", *words, *options])
        draws.main()
        return study.read_lines(out), capsys.readouterr().out

    return run_command


def test_a_row_that_has_its_line_is_not_drawn_again_and_another_model_is(command) -> None:
    names = ("all instances, untruncated", "truncation 0.5")
    lines, printed = command("first", "--names", *names)
    assert [line["name"] for line in lines] == list(names)
    assert printed.splitlines()[:2] == list(names)
    assert "| truncation 0.5 |" in printed
    lines, printed = command("first", "--names", names[0])
    assert len(lines) == 2
    assert not printed.startswith(names[0])
    lines, printed = command("second", "--names", names[0])
    assert len(lines) == 3
    assert "| truncation 0.5 |" not in printed, "the table is of the model that was asked"
    assert all(np.isfinite(line["scores"]["fid"]) for line in lines)
