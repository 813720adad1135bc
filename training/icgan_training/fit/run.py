"""A run directory: what it says of itself, and the weights it offers for export.

config.json                  model, settings, encoder, data
generator.safetensors        the averaged weights
discriminator.safetensors
encoder.safetensors          a copy, so that the directory is self-contained
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from icgan_runtime.files import atomic_file
from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.integrity import file_sha256, inside, read_json
from icgan_training.networks.checkpoint import save_weights
from icgan_training.networks.config import ModelConfig, TrainConfig
from icgan_training.networks.generator import Generator
from icgan_training.networks.projected import AnyDiscriminator

SCHEMA_VERSION = 1
CONFIG = "config.json"


def open_run(run_dir: Path, model: ModelConfig, train: TrainConfig, data: PreparedDataset) -> None:
    """Make a run directory, or check that the one there is of the same model, data and encoder.

    Training settings may change between runs (a lower learning rate, more pictures); config.json then
    says the newest, and keeps what its reader wrote there (a name, a licence). Raises ConfigError naming the
    first difference that would make it another model.
    """
    described = describe(model, train, data)
    path = run_dir / CONFIG
    if path.exists():
        there = read_config(run_dir)
        for section in ("model", "encoder", "data"):
            begun = there.get(section, {})
            for name in sorted(begun.keys() | described[section].keys()):
                old, new = begun.get(name), described[section].get(name)
                if old != new and name != "path":
                    raise ConfigError(
                        f"{run_dir} was started with {section} {name} {old!r}, not {new!r}:"
                        " choose another --out"
                    )
        described = there | described
    run_dir.mkdir(parents=True, exist_ok=True)
    copy = run_dir / "encoder.safetensors"
    if not copy.exists():
        with atomic_file(copy) as partial:
            shutil.copyfile(data.encoder_path, partial)
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(described, indent=2) + "\n")


def read_config(run_dir: Path) -> dict[str, Any]:
    """config.json of a run directory: sections by name. Raises ConfigError when it is missing or damaged."""
    path = run_dir / CONFIG
    if not path.exists():
        raise ConfigError(f"{path} does not exist; {run_dir} is no run directory")
    try:
        config = read_json(inside(run_dir, CONFIG))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}): restore it, or choose another --out") from error
    if not all(
        isinstance(config.get(section, {}), dict) for section in ("model", "train", "encoder", "data")
    ):
        raise ConfigError(f"{path} does not describe a run")
    return config


def check_encoder(run_dir: Path, config: dict[str, Any]) -> None:
    """Raise ConfigError unless encoder.safetensors is the one that config.json names, if it names one."""
    wanted = config.get("encoder", {}).get("sha256")
    path = run_dir / "encoder.safetensors"
    if wanted is not None and path.exists() and (found := file_sha256(path)) != wanted:
        raise ConfigError(
            f"{path} has SHA-256 {found[:12]}..., {CONFIG} says {str(wanted)[:12]}...: put the encoder of"
            " this run there"
        )


def describe(model: ModelConfig, train: TrainConfig, data: PreparedDataset) -> dict[str, Any]:
    """The content of config.json. `class_names` are those of the labels that the model takes."""
    named = model.takes_label and train.label_source == "dataset"
    return {
        "schema_version": SCHEMA_VERSION,
        "class_names": data.meta.class_names if named else None,
        "model": model.to_dict(),
        "train": train.to_dict(),
        "encoder": dataclasses.asdict(data.meta.encoder),
        "data": {
            "path": str(data.path),
            "name": data.meta.name,
            "count": data.meta.count,
            "neighbours": data.meta.neighbours,
            "class_names": data.meta.class_names,
            "source": data.meta.source,
            "licence": data.meta.licence,
        },
    }


def publish(run_dir: Path, generator: Generator, discriminator: AnyDiscriminator) -> None:
    """Offer these weights for export: the averaged generator, and D for those who fine-tune."""
    save_weights(generator, run_dir / "generator.safetensors")
    save_weights(discriminator, run_dir / "discriminator.safetensors")
