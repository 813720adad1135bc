"""`icgan-train fit`: what it refuses, and what it hands to training."""

from __future__ import annotations

import json

import pytest

from icgan_training import cli


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--images 0", "--images is 0, it must be at least 1"),
        ("--fid-samples 1", "--fid-samples is 1, it must be at least 2"),
        ("--images 8 --set total_images=9", "--set total_images says again what --images says"),
        ("--precision float32 --set precision=bfloat16", "--set precision says again what --precision says"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_the_words_of_the_command(options, message, capsys):
    assert cli.main(["fit", "data", "--preset", "tiny", "--dry-run", *options.split()]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", ["--precision {}", "--set precision={}"])
def test_a_precision_that_is_asked_for_is_used_whatever_the_hardware_has(asked, way, make_prepared, capsys):
    command = ["fit", str(make_prepared()), "--preset", "tiny", "--dry-run", *way.format(asked).split()]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["train"]["precision"] == asked


def test_checkpoints_are_scored_on_the_neighbourhoods_that_are_trained_on(
    make_prepared, tmp_path, monkeypatch
):
    scored = []

    def scorer(data, samples, inception):
        scored.append(data.neighbours.shape[1])  # a sample's label is that of one of these neighbours
        return lambda generator, labels: 1.0

    monkeypatch.setattr("icgan_training.data.fetch.find_weights", lambda name: name)
    monkeypatch.setattr("icgan_training.score.feature_networks.inception_network", lambda path, device: path)
    monkeypatch.setattr("icgan_training.score.evaluate.fid_scorer", scorer)
    command = ["fit", str(make_prepared(neighbours=5)), "--preset", "tiny", "--out", str(tmp_path / "run")]
    command += ["--images", "8", "--fid-samples", "8", "--set", "neighbours=2"]
    assert cli.main(command) == 0
    assert scored == [2]
