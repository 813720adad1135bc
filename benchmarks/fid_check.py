"""Scores of real against real pictures, whose values are known: CIFAR-10 training against test set.

    python -m benchmarks.fid_check data/cifar10 --pictures 2000 --store data/cifar10-features

Known: FID 24.9 at 2,000 pictures of each, 10.29 at 5,000, 5.20 at 10,000 (random choices differ by some
tenths at 2,000). FID is computed twice, by torchmetrics and by symmetric square roots in double precision.
Extraction is slow on a CPU; `--store` keeps it in pieces, so a stopped run continues. Prints a table and, as
its last line, JSON.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.report import about
from icgan_training.data.fetch import find_weights
from icgan_training.distributed import local_device
from icgan_training.progress import Progress
from icgan_training.score.feature_networks import inception_network
from icgan_training.score.features import FeatureNetwork, picture_order
from icgan_training.score.metrics import coverage, frechet_distance, kernel_distance

PIECE = 50


def features(
    images: NDArray[np.uint8], count: int, network: FeatureNetwork, store: Path
) -> NDArray[np.float32]:
    """Features of the first pictures in the order that `icgan-train evaluate` uses, kept in pieces."""
    order = picture_order(len(images))[:count]
    store.mkdir(parents=True, exist_ok=True)
    pieces = []
    with Progress(count, f"features, {store.name}", "pictures") as progress:
        for number, start in enumerate(range(0, count, PIECE)):
            file = store / f"{number:05d}.npy"
            if not file.exists():
                partial = file.with_suffix(".partial.npy")
                np.save(partial, network(images[order[start : start + PIECE]]))
                partial.replace(file)
            pieces.append(np.load(file))
            progress.advance(PIECE)
    return np.concatenate(pieces)[:count]


def independent_fid(real: NDArray[np.float32], fake: NDArray[np.float32]) -> float:
    """The Fréchet distance from eigenvalues of symmetric matrices, in double precision."""
    real_cov, fake_cov = (np.cov(rows.astype(np.float64), rowvar=False) for rows in (real, fake))
    values, vectors = np.linalg.eigh(real_cov)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ fake_cov @ root).clip(0)).sum()
    shift = real.mean(axis=0, dtype=np.float64) - fake.mean(axis=0, dtype=np.float64)
    return float(shift @ shift + np.trace(real_cov) + np.trace(fake_cov) - 2 * cross)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="what icgan-train fetch cifar10 wrote")
    parser.add_argument("--pictures", type=int, default=2000, help="of each set")
    parser.add_argument("--store", type=Path, required=True, help="folder of the extracted features")
    args = parser.parse_args()
    network = inception_network(find_weights("inception"), local_device())
    real, fake = (
        features(np.load(folder / "images.npy", mmap_mode="r"), args.pictures, network, args.store / name)
        for name, folder in (("train", args.data), ("test", args.data / "test"))
    )
    kid, deviation = kernel_distance(real, fake)
    limit = min(2000, args.pictures)
    scores = {
        "fid": frechet_distance(real, fake),
        "fid, independent": independent_fid(real, fake),
        "kid": kid,
        "kid deviation": deviation,
        **dataclasses.asdict(coverage(real[:limit], fake[:limit])),
    }
    print(f"CIFAR-10 train against test, {args.pictures} pictures each, float32 ({torch.__version__})")
    for name, value in scores.items():
        print(f"{name:<20} {value:10.4f}")
    print(
        json.dumps(
            about("benchmarks.fid_check", ["torch"])
            | {"pictures": args.pictures, "prdc_pictures": limit, "scores": scores}
        )
    )


if __name__ == "__main__":
    main()
