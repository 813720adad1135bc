"""A finished run -> the directory this repository ships: FP16 weights, encoder, instances as small pictures.

example: python models/pack.py runs/demo64 data/groceries64 models/demo --instances 400

The model card (README.md) beside the weights is written by hand; evaluation.json is what icgan-train evaluate
measured of them. Both stay as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.grid import write_grid
from icgan_training.data.neighbours import kmeans_instances
from icgan_training.fit.run import open_encoder, read_config
from icgan_training.networks.checkpoint import load_generator, save_weights
from icgan_training.networks.encoder import read_encoder_config
from icgan_training.score.sheets import plain_grid
from icgan_training.score.subject import EvaluationSettings, load_subject


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run directory of icgan-train fit")
    parser.add_argument("data", type=Path, help="the prepared data set it was trained on")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--instances",
        type=int,
        default=400,
        help="pictures to ship, by k-means; 0 where their licence says no",
    )
    parser.add_argument("--sheet", type=Path, help="PNG of 64 samples of seed 0, nothing selected")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    save_weights(load_generator(options.run), options.out / "generator.safetensors", half=True)
    _write_config(options.run, options.out)
    _share_encoder(options.run, options.out)
    if options.sheet is not None:
        _write_sheet(options.run, options.data, options.sheet)
    if options.instances:
        _write_instances(PreparedDataset.open(options.data), options.out / "instances", options.instances)


def _share_encoder(run: Path, out: Path) -> None:
    """Encoders of all shipped models lie once, in `encoders/` beside them; a model says which is its own."""
    own = read_encoder_config(run / "encoder.safetensors")
    shared = out.parent / "encoders" / f"{own.architecture}.safetensors"
    if not shared.exists():
        shared.parent.mkdir(exist_ok=True)
        shutil.copyfile(run / "encoder.safetensors", shared)
    described = {"file": f"../encoders/{shared.name}", "input_size": own.input_size}
    (out / "encoder.json").write_text(json.dumps(described) + "\n")
    open_encoder(out, read_config(out))  # another encoder of the same name is found out here


def _write_config(run: Path, out: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    del config["data"]["path"]  # means nothing on another machine
    config["name"] = out.name
    config["licence"] = {"weights": "Apache-2.0", "notice": f"Trained on {config['data']['source']}."}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _write_sheet(run: Path, data: Path, path: Path) -> None:
    """8 x 8 samples, each of another instance and noise, without the instances."""
    settings = EvaluationSettings(samples=64, instances=0)
    subject = load_subject(run, data, settings, torch.device("cpu"))
    write_grid(path, plain_grid(subject, settings, 8).repeat(2, 0).repeat(2, 1))


def _write_instances(data: PreparedDataset, folder: Path, count: int) -> None:
    """One JPEG for each chosen instance, in a sub-folder per class; the name is its row in the data set."""
    for old in folder.rglob("*.jpg"):
        old.unlink()
    names = data.meta.class_names
    for row in kmeans_instances(np.asarray(data.embeddings), count):
        place = folder if data.labels is None or names is None else folder / names[data.labels[row]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(data.images[row])).save(
            place / f"{row:05d}.jpg", quality=95, subsampling=0
        )


if __name__ == "__main__":
    main()
