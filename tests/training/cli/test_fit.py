"""`icgan-train fit`: what it refuses, and what it hands to training."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from icgan_training import cli
from icgan_training.fit.run import find_data, open_encoder, read_config
from icgan_training.networks.checkpoint import load_generator
from icgan_training.networks.encoder import encoder_bytes
from icgan_training.networks.presets import preset

DEMO = Path(__file__).parents[3] / "models" / "demo"


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


def written(run: Path) -> bytes:
    return (run / "config.json").read_bytes()


def test_a_changed_setting_is_refused_until_it_is_to_change_on_purpose(
    make_prepared, tmp_path, monkeypatch, capsys
):
    """Also from another folder, and without saying again what the run knows."""
    make_prepared("data")
    monkeypatch.chdir(tmp_path)
    command = ["fit", "data", "--preset", "tiny", "--out", "run", "--images", "8", "--set", "neighbours=2"]
    assert cli.main(command) == 0
    assert "warning: " in capsys.readouterr().err, "of so few pictures"
    run, begun = tmp_path / "run", written(tmp_path / "run")
    assert cli.main(command) == 0, "the same command goes on"
    said = capsys.readouterr().err
    assert "run goes on after step 2\n" in said
    assert "warning: " not in said, "that was said when it began"
    for change in (["--set", "ema_decay=0.5"], ["--set", "ema_decay=0.25"]):
        capsys.readouterr()
        assert cli.main([*command, *change]) == 1
        assert written(run) == begun
    said = capsys.readouterr().err
    assert "not 0.25: to change it on purpose" in said
    assert "icgan-train fit --continue --out run --set ema_decay=0.25" in said
    assert cli.main([*command[:-4], "--images", "16", "--set", "neighbours=2"]) == 1
    assert "run was started with total_images 8, not 16" in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ["--set", "ema_decay=0.25", "--images", "16"]
    assert cli.main(["fit", "--continue", "--out", "../run", *words]) == 0
    train = json.loads(written(run))["train"]
    assert (train["ema_decay"], train["total_images"], train["neighbours"]) == (0.25, 16, 2)
    assert cli.main(["fit", "--continue", "--out", "../run", "--set", "ch=4"]) == 1
    assert "--set ch: ../run goes on with the model that it has" in capsys.readouterr().err
    assert cli.main(["fit", "--continue", "--out", "nowhere"]) == 1
    assert "nowhere is no run directory" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["fit", "--continue"])
    assert "say which, --out RUN" in capsys.readouterr().err


def test_a_data_set_recorded_as_it_was_typed_is_found_from_anywhere(make_prepared, tmp_path, monkeypatch):
    data = make_prepared("data")
    (tmp_path / "runs" / "old").mkdir(parents=True)
    monkeypatch.chdir("/")
    assert find_data(tmp_path / "runs" / "old", {"data": {"path": "data"}}) == data
    assert find_data(tmp_path / "runs" / "old", {"data": {"path": "gone"}}) == Path("gone")
    assert find_data(tmp_path / "runs" / "old", {}) is None


@pytest.fixture
def in_the_demos_space(make_prepared):
    """A prepared data set that says it was embedded by the demo's encoder."""
    folder = make_prepared("mine", count=12, resolution=64, embedding_dim=1280, neighbours=5)
    config = read_config(DEMO)
    content = encoder_bytes(open_encoder(DEMO, config)[0])
    (folder / "encoder.safetensors").write_bytes(content)
    meta = json.loads((folder / "dataset.json").read_text())
    meta["encoder"] = config["encoder"]
    assert meta["encoder"]["sha256"] == hashlib.sha256(content).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(meta))
    return folder


def test_data_and_the_shipped_weights_are_all_that_fine_tuning_needs(
    in_the_demos_space, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit", "mine", "--from", str(DEMO), "--images", "16"]) == 0
    assert (
        f"runs/mine starts from the generator of {DEMO}; its discriminator is new" in capsys.readouterr().err
    )
    config = json.loads(Path("runs/mine/config.json").read_text())
    assert config["model"] == preset("demo64").model.to_dict()
    assert config["origin"]["name"] == "demo"
    assert config["licence"]["weights"] == "Apache-2.0"
    tuned, demo = (load_generator(run).state_dict()["linear.weight"] for run in (Path("runs/mine"), DEMO))
    assert 0 < (tuned - demo).abs().max() < 0.01  # one step away


def test_the_preset_says_how_and_the_weights_say_what(in_the_demos_space, capsys):
    command = ["fit", str(in_the_demos_space), "--from", str(DEMO), "--dry-run"]
    assert cli.main(command) == 0
    usual = json.loads(capsys.readouterr().out)
    assert cli.main([*command, "--preset", "tiny", "--set", "discriminator=pixels"]) == 0
    chosen = json.loads(capsys.readouterr().out)
    assert usual["train"]["ema_decay"] == preset("small-set").train.ema_decay
    assert chosen["train"]["batch_size"] == preset("tiny").train.batch_size
    assert chosen["model"] == usual["model"] | {"discriminator": "pixels"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--from nowhere", "--from nowhere is no folder"),
        ("--from demo --out demo", "--out demo is the run of --from: choose another --out"),
        ("--from demo --preset tiny-stylegan2", "--preset is for another backbone than --from demo"),
        ("--from demo --set ch=8", "--set ch: the weights of --from demo have 16, which cannot change"),
    ],
)
def test_an_origin_that_does_not_fit_is_refused(
    options, message, in_the_demos_space, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEMO, "demo", ignore=shutil.ignore_patterns("instances"))
    assert cli.main(["fit", "mine", *options.split()]) == 1
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()
