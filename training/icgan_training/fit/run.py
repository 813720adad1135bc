"""A run directory: what it says of itself, and the weights it offers for export.

config.json                  model, settings, encoder, data
generator.safetensors        the averaged weights
discriminator.safetensors
encoder.safetensors          a copy, or encoder.json, which names one that runs share
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from icgan_runtime.files import atomic_file, sha256_of_file
from icgan_runtime.identity import CENTRE, CROPS
from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.integrity import inside, read_json
from icgan_training.networks.backbones import AnyConfig, AnyDiscriminator, AnyGenerator
from icgan_training.networks.checkpoint import save_weights
from icgan_training.networks.config import TrainConfig
from icgan_training.networks.encoder import Encoder, encoder_bytes, load_encoder

SCHEMA_VERSION = 1
CONFIG = "config.json"
ENCODER = "encoder.safetensors"
SHARED_ENCODER = "encoder.json"


@contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """The only training of a run directory, which is made where it is missing.

    Raises ConfigError while another process trains it. The system gives the lock back with the process that
    holds it, however that ends. On Windows, and on file systems that know no locks, nothing is checked.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(run_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{run_dir} is being trained by another process: wait for its end, stop it (Ctrl-C writes a"
                " checkpoint), or choose another --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def open_run(
    run_dir: Path,
    model: AnyConfig,
    train: TrainConfig,
    data: PreparedDataset,
    origin: Mapping[str, Any] | None = None,
    change: bool = True,
) -> None:
    """Make a run directory, or check that the one there is of the same model, data and encoder.

    With `change` training settings may change between runs (a lower learning rate, more pictures);
    config.json then says the newest, and keeps what its reader wrote there (a name, a licence). Raises
    ConfigError naming the first difference that would make it another model, or is not to change. `origin` is
    what config.json says of where its weights come from, and what binds them (`Origin.describe`).
    """
    described = describe(model, train, data) | dict(origin or {})
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
        _check_origin(run_dir, there.get("origin"), described.get("origin"))
        if not change:
            _refuse_changes(run_dir, there.get("train", {}), described["train"])
        written = {"licence": there["licence"]} if "licence" in there else {}
        described = there | described | written
    run_dir.mkdir(parents=True, exist_ok=True)
    copy = run_dir / ENCODER
    if not copy.exists():
        with atomic_file(copy) as partial:
            shutil.copyfile(data.encoder_path, partial)
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(described, indent=2) + "\n")


def _refuse_changes(run_dir: Path, begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise ConfigError where training would go on with another setting than it began with."""
    asked = json.loads(json.dumps(asked))
    # a run of an older version does not name every setting
    changed = [name for name in sorted(begun.keys() & asked.keys()) if begun[name] != asked[name]]
    if not changed:
        return
    first = changed[0]
    more = f" (and {len(changed) - 1} more: {', '.join(changed[1:])})" if len(changed) > 1 else ""
    raise ConfigError(
        f"{run_dir} was started with {first} {begun[first]!r}, not {asked[first]!r}{more}: to change it on"
        f" purpose, icgan-train fit --continue --out {run_dir} --set {first}={json.dumps(asked[first])};"
        " or choose another --out"
    )


def find_data(run_dir: Path, config: Mapping[str, Any]) -> Path | None:
    """The prepared data set that a run's config.json names, from whatever folder the command is given.

    A path that an older version wrote as it was typed is looked for here, and from each folder above the run.
    Where nothing is found, the path as recorded; None where none is.
    """
    recorded = config.get("data", {}).get("path")
    if not recorded:
        return None
    path = Path(recorded)
    places = [path, *(parent / path for parent in run_dir.resolve().parents)]
    return next((place for place in places if (place / "dataset.json").exists()), path)


def _check_origin(run_dir: Path, begun: Any, asked: Any) -> None:
    """Raise ConfigError where a run would go on from other weights than those that it began with."""
    weights = [
        {name: value for name, value in (origin or {}).items() if name not in ("path", "name")}
        for origin in (begun, asked)
    ]
    if weights[0] == weights[1]:
        return
    if begun is None:
        raise ConfigError(f"{run_dir} was started without --from: leave it out, or choose another --out")
    path, found = begun.get("path"), str(begun.get("generator"))[:12]
    raise ConfigError(
        f"{run_dir} was started --from {path} (generator {found}...): say so again, with the same weights"
        " there, or choose another --out"
    )


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


def open_encoder(run_dir: Path, config: dict[str, Any]) -> tuple[Encoder, str]:
    """The encoder of a run, and the SHA-256 of its file; both that the generator was trained with.

    A run has its own encoder.safetensors, or an encoder.json that names a file which runs share:
    {"file": "../encoders/NAME.safetensors", "input_size": PIXELS}. The hash is then that of the file which
    the two stand for, so it is the one that data sets, bundles and config.json know.
    Raises ConfigError when it is missing or not the one that config.json names, WeightsError for a bad file.
    """
    own = run_dir / ENCODER
    if own.exists():
        found = sha256_of_file(own)
        wanted = config.get("encoder", {}).get("sha256")
        if wanted not in (None, found):
            raise _other_encoder(own, found, wanted)
        return load_encoder(own), found
    if not (run_dir / SHARED_ENCODER).exists():
        raise ConfigError(f"{own} is missing: copy the encoder the generator was trained with there")
    path, input_size = _shared_encoder(run_dir)
    encoder = load_encoder(path)
    encoder.config = dataclasses.replace(encoder.config, input_size=input_size)
    found = hashlib.sha256(encoder_bytes(encoder)).hexdigest()
    wanted = config.get("encoder", {}).get("sha256")
    if wanted != found:
        raise _other_encoder(path, found, wanted)
    return encoder, found


def _other_encoder(path: Path, found: str, wanted: Any) -> ConfigError:
    return ConfigError(
        f"{path} has SHA-256 {found[:12]}..., {CONFIG} says {str(wanted)[:12]}...: put the encoder of"
        " this run there"
    )


def _shared_encoder(run_dir: Path) -> tuple[Path, int]:
    """What encoder.json names, a file below the folder that the run lies in. Raises ConfigError."""
    note = run_dir / SHARED_ENCODER
    try:
        described = read_json(inside(run_dir, SHARED_ENCODER))
        name, input_size = described["file"], described["input_size"]
        if not isinstance(name, str) or not name.startswith("../") or type(input_size) is not int:
            raise ValueError("file is not ../FOLDER/NAME, or input_size no number")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{note} is damaged ({error}): restore it") from error
    try:
        return inside(run_dir.resolve().parent, name.removeprefix("../")), input_size
    except ValueError as error:
        raise ConfigError(f"{note} names {name}, which {error}: copy that file along with the run") from error


def describe(model: AnyConfig, train: TrainConfig, data: PreparedDataset) -> dict[str, Any]:
    """The content of config.json. `class_names` are those of the labels that the model takes."""
    named = model.takes_label and train.label_source == "dataset"
    return {
        "schema_version": SCHEMA_VERSION,
        "class_names": data.meta.class_names if named else None,
        "model": model.to_dict(),
        "train": train.to_dict(),
        "encoder": dataclasses.asdict(data.meta.encoder),
        "data": {
            "path": str(data.path.resolve()),
            "name": data.meta.name,
            "count": data.meta.count,
            "neighbours": data.meta.neighbours,
            "class_names": data.meta.class_names,
            "source": data.meta.source,
            "licence": data.meta.licence,
            **({} if data.meta.crop == CENTRE else {"crop": data.meta.crop}),
        },
    }


def crop_of(config: Mapping[str, Any]) -> str:
    """How pictures are to become square before a run's encoder: one of CROPS. Raises ConfigError."""
    crop: str = config.get("data", {}).get("crop", CENTRE)
    if crop not in CROPS:
        raise ConfigError(f"data.crop of {CONFIG} is {crop!r}; choose from {', '.join(CROPS)}")
    return crop


def publish(run_dir: Path, generator: AnyGenerator, discriminator: AnyDiscriminator) -> None:
    """Offer these weights for export: the averaged generator, and D for those who fine-tune."""
    save_weights(generator, run_dir / "generator.safetensors")
    save_weights(discriminator, run_dir / "discriminator.safetensors")
