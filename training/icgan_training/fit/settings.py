"""From a preset, a data set and what the user asks for to the settings of a run."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.fit.origin import Origin, model_of
from icgan_training.networks.backbones import AnyConfig, config_from_dict
from icgan_training.networks.config import ModelConfig, Precision, TrainConfig
from icgan_training.networks.presets import Preset
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.train import StyleGAN2TrainConfig

CONFIGS = (ModelConfig, TrainConfig, StyleGAN2Config, StyleGAN2TrainConfig)


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """`NAME=VALUE` strings as a dictionary; a value is JSON where it can be read as such, else text.

    Raises ConfigError for a string without `=` and for a name that no configuration has.
    """
    known = {field.name for config in CONFIGS for field in dataclasses.fields(config)}
    overrides: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in known:
            raise ConfigError(f"--set {setting}: expected NAME=VALUE with one of {', '.join(sorted(known))}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        overrides[name] = tuple(value) if isinstance(value, list) else value
    return overrides


def resolve(
    preset: Preset, data: PreparedDataset, overrides: dict[str, Any], origin: Origin | None = None
) -> tuple[AnyConfig, TrainConfig]:
    """The preset with the user's overrides, its embedding width and class count those of the data set.

    With an origin the model is the origin's, and the preset says how it is trained. Raises ConfigError where
    preset, origin and data set do not fit together.
    """
    of_model = {field.name for field in dataclasses.fields(preset.model)} & overrides.keys()
    of_train = {field.name for field in dataclasses.fields(preset.train)} & overrides.keys()
    if strange := sorted(overrides.keys() - of_model - of_train):
        raise ConfigError(f"--set {strange[0]}: preset {preset.name} has no such setting")
    model = dataclasses.replace(preset.model, **{name: overrides[name] for name in of_model})
    train = dataclasses.replace(
        preset.train, **{name: value for name, value in overrides.items() if name not in of_model}
    )
    if origin is not None:
        model = model_of(origin, model, overrides)
        origin.check(data)
    if model.resolution != data.meta.resolution:
        raise ConfigError(
            f"preset {preset.name} is {model.resolution} px, {data.path} {data.meta.resolution} px:"
            f" prepare the pictures with --resolution {model.resolution}, choose another"
            f" preset, or make it the pictures' size with --set resolution={data.meta.resolution}"
        )
    if model.takes_embedding:
        model = dataclasses.replace(model, embedding_dim=data.meta.embedding_dim)
    if model.takes_label and train.label_source == "dataset":
        if data.class_count is None:
            raise ConfigError(
                f"preset {preset.name} takes labels, {data.path} has none: choose another preset"
                if origin is None
                else f"--from {origin.folder} takes labels, {data.path} has none: prepare it with labels"
            )
        if origin is not None and data.class_count != model.class_count:
            raise ConfigError(
                f"--from {origin.folder} knows {model.class_count} classes, {data.path} has"
                f" {data.class_count}: start from a model without labels"
            )
        model = dataclasses.replace(model, class_count=data.class_count)
    if train.long_tail and data.labels is None:
        raise ConfigError(f"long_tail balances classes, {data.path} has no labels: --set long_tail=false")
    return model, train


def of_run(run_dir: Path, config: dict[str, Any], overrides: dict[str, Any]) -> tuple[AnyConfig, TrainConfig]:
    """The model and settings of an existing run, with what the user changes of its training.

    Raises ConfigError for a change of the model, which would be another one.
    """
    model = config_from_dict(config.get("model", {}))
    kind = StyleGAN2TrainConfig if isinstance(model, StyleGAN2Config) else TrainConfig
    train = kind.from_dict(config.get("train", {}))
    known = {field.name for field in dataclasses.fields(kind)}
    if strange := sorted(overrides.keys() - known):
        raise ConfigError(
            f"--set {strange[0]}: {run_dir} goes on with the model that it has; choose another --out"
        )
    return model, dataclasses.replace(train, **overrides)


def neighbourhood_note(
    preset: Preset, model: AnyConfig, train: TrainConfig, data: PreparedDataset
) -> str | None:
    """A line for the user whose data set has other neighbourhoods than the preset's, and who chose none."""
    found = data.meta.neighbours
    if not model.takes_embedding or train.neighbours is not None or preset.neighbours in (0, found):
        return None
    fix = "--set neighbours={}" if preset.neighbours < found else "prepare it with --neighbours {}"
    return (
        f"note: preset {preset.name} is for {preset.neighbours} neighbours, {data.path} has {found}, all of"
        f" which are used: {fix.format(preset.neighbours)} for the preset's"
    )


def choose_precision(device: torch.device) -> tuple[Precision, str]:
    """bfloat16 where the hardware multiplies it, and the reason in words."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU has it"
        return "float32", "the GPU has no bfloat16"
    if torch.cpu._is_avx512_bf16_supported():
        return "bfloat16", "the CPU has AVX512-BF16"
    return "float32", "the CPU has no bfloat16 instructions"
