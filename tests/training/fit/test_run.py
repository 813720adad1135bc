"""A run's encoder: its own file, or one that several runs share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from icgan_training.errors import ConfigError
from icgan_training.fit.run import alone, open_encoder, read_config

MODELS = Path(__file__).parents[3] / "models"


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A copy of a shipped model and of the encoder that it shares, without its pictures."""
    shutil.copytree(MODELS / "cifar10", tmp_path / "cifar10")
    shutil.copytree(MODELS / "encoders", tmp_path / "encoders")
    return tmp_path / "cifar10"


@pytest.mark.parametrize(("name", "side"), [("demo", 224), ("cifar10", 160)])
def test_the_shipped_models_share_one_file_and_each_has_the_encoder_it_was_trained_with(name, side):
    assert not (MODELS / name / "encoder.safetensors").exists()
    config = read_config(MODELS / name)
    encoder, sha256 = open_encoder(MODELS / name, config)
    assert encoder.config.input_size == side
    assert sha256 == config["encoder"]["sha256"]  # of the file that data sets were prepared with


def test_a_folder_that_was_copied_without_it_names_what_is_missing(shipped):
    shutil.rmtree(shipped.parent / "encoders")
    with pytest.raises(ConfigError, match=r"names .*lite0\.safetensors, which is missing"):
        open_encoder(shipped, read_config(shipped))


def test_an_encoder_of_its_own_serves_too(shipped, encoder_file):
    config = read_config(shipped)
    shutil.copyfile(encoder_file, shipped / "encoder.safetensors")
    with pytest.raises(ConfigError, match=r"encoder\.safetensors has SHA-256"):
        open_encoder(shipped, config)
    assert open_encoder(shipped, {})[0].config.input_size == 32


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"input_size": 224}, "has SHA-256"),  # whole and sound, but another space of embeddings
        ({"input_size": "160"}, "damaged"),
        ({"file": "/etc/hostname"}, "damaged"),
        ({"file": "../../outside.safetensors"}, "which is"),
    ],
)
def test_what_names_another_encoder_is_refused(shipped, described, message):
    note = shipped / "encoder.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | described))
    with pytest.raises(ConfigError, match=message):
        open_encoder(shipped, read_config(shipped))


def test_a_run_without_any_encoder_is_refused(shipped):
    (shipped / "encoder.json").unlink()
    with pytest.raises(ConfigError, match=r"encoder\.safetensors is missing"):
        open_encoder(shipped, read_config(shipped))


def test_a_run_that_is_being_trained_is_left_alone_until_that_ends(tmp_path):
    run = tmp_path / "new" / "run"
    with alone(run), pytest.raises(ConfigError, match="is being trained by another process"), alone(run):
        pass
    with alone(run):
        assert list(run.iterdir()) == [], "nothing is left behind"
