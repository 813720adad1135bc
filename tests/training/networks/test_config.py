import subprocess
import sys
from typing import Any

import pytest

from icgan_training.errors import ConfigError
from icgan_training.networks.config import ModelConfig, TrainConfig

TRAIN: dict[str, Any] = {"batch_size": 8, "generator_lr": 1e-4, "discriminator_lr": 1e-4, "total_images": 100}


def test_a_config_survives_json():
    model = ModelConfig(64, 8, attention=(16, 32), class_count=10, generator_multipliers=(8, 8, 4, 2, 1))
    train = TrainConfig(**TRAIN, diffaugment=("color", "cutout"))
    assert ModelConfig.from_dict(model.to_dict()) == model
    assert TrainConfig.from_dict(train.to_dict()) == train
    assert model.to_dict()["attention"] == [16, 32]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "resolution is 48; choose 32, 64, 128, 256 or 512"),
        ({"resolution": "64"}, "resolution is '64'; expected int"),
        ({"ch": 0}, "ch is 0; it must be positive"),
        ({"ch": True}, "ch is True; expected int"),
        ({"attention": [7]}, "attention at 7 px: the blocks end at 8, 16, 32, 64 px"),
        ({"attention": ["32"]}, "expected a list of int"),
        ({"embedding_dim": None}, "an unconditional model has class_count 1"),
        ({"class_count": 2.0}, "class_count is 2.0; expected int or null"),
        ({"generator_multipliers": [1, 2]}, "64 px needs 5"),
        ({"discriminator_multipliers": [1, 2]}, "needs at least 5"),
        ({"discriminator_multipliers": [1, 2, 3, 4, 0]}, "must be positive"),
        ({"dim_z": 3}, "hierarchical noise needs at least 5"),
        ({"chanels": 3}, "unknown field chanels; known: resolution, ch"),
    ],
)
def test_a_wrong_model_setting_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict({"resolution": 64, "ch": 4} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 9, "accumulation": 2}, "batch_size 9 is not a multiple of accumulation 2"),
        ({"ema_decay": 1.0}, r"ema_decay is 1.0; it must lie in \[0, 1\)"),
        ({"generator_lr": float("nan")}, "generator_lr is nan; expected float"),
        ({"diffaugment": ["colour"]}, "diffaugment has 'colour'; choose from color, translation, cutout"),
        ({"precision": "float16"}, "expected 'float32' or 'bfloat16'"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"total_images": None}, "total_images is None; expected int"),
    ],
)
def test_a_wrong_training_setting_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_dict(TRAIN | changes)


def test_missing_settings_are_all_named():
    with pytest.raises(ConfigError, match="missing field batch_size, generator_lr"):
        TrainConfig.from_dict({"discriminator_lr": 1e-4, "total_images": 1})


def test_the_noise_is_split_as_published():
    split = {
        r: (ModelConfig(r, 8).noise_chunk, ModelConfig(r, 8).noise_used) for r in (32, 64, 128, 256, 512)
    }
    assert split == {32: (30, 120), 64: (24, 120), 128: (20, 120), 256: (17, 119), 512: (15, 120)}


def test_the_conditioning_follows_from_what_the_model_takes():
    def conditioning(**settings):
        return ModelConfig(64, 8, **settings).conditioning

    assert conditioning() == "instance"
    assert conditioning(class_count=10) == "class+instance"
    assert conditioning(class_count=10, embedding_dim=None) == "class"
    assert conditioning(class_count=1, embedding_dim=None) == "unconditional"


def test_configs_and_presets_are_read_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import icgan_training.networks.presets, icgan_training.cli"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
