"""How well embeddings find pictures of the same kind: leave-one-out accuracy of the nearest neighbours.

    python -m benchmarks.neighbour_accuracy data/cifar10 --resolution 32 --pictures 1000

Each of N random pictures gets the majority label of its 5 nearest others (the nearest decides a tie). Prints
a table and, as its last line, JSON.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.report import about
from icgan_training.data.fetch import find_weights
from icgan_training.data.neighbours import nearest_neighbours
from icgan_training.data.sources import open_source
from icgan_training.networks.encoder import Encoder, fold_batch_norm, load_encoder, random_encoder

BATCH = 8


def accuracies(rows: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Leave-one-out accuracy of the 5 nearest neighbours and of the nearest alone."""
    neighbours = labels[nearest_neighbours(rows, 5).indices]  # [N, 5]
    votes = (neighbours[:, :, None] == np.arange(labels.max() + 1)).sum(axis=1).astype(float)
    np.put_along_axis(votes, neighbours[:, :1], np.take_along_axis(votes, neighbours[:, :1], 1) + 0.5, axis=1)
    return float((votes.argmax(axis=1) == labels).mean()), float((neighbours[:, 0] == labels).mean())


@torch.inference_mode()
def embed(encoder: Encoder, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    network = fold_batch_norm(encoder)
    return torch.cat([network(part) for part in torch.from_numpy(pictures).split(BATCH)]).numpy()


def pixels(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Centred pixels as unit rows: the baseline any encoder has to beat."""
    rows = pictures.reshape(len(pictures), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="labelled pictures, as icgan-train fetch writes them")
    parser.add_argument("--resolution", type=int, required=True)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--encoders", nargs="*", default=["efficientnet-lite0", "resnet50"])
    parser.add_argument("--input-sizes", type=int, nargs="*", default=[], help="also these, for each encoder")
    args = parser.parse_args()

    source = open_source(args.source)
    chosen = np.random.default_rng(0).choice(len(source), min(args.pictures, len(source)), replace=False)
    pictures = np.stack([source.read(int(row), args.resolution) for row in chosen])
    assert source.labels is not None, "accuracy needs labels"
    labels = source.labels[chosen]

    results = []

    def report(name: str, rows: NDArray[np.float32], seconds: float) -> None:
        five, one = accuracies(rows, labels)
        results.append({"features": name, "5-nn": five, "1-nn": one, "pictures_per_s": len(rows) / seconds})
        print(f"{name:<36} {five:6.3f} {one:6.3f} {len(rows) / seconds:10.1f}", flush=True)

    threads = torch.get_num_threads()
    print(f"{len(pictures)} pictures of {source.note.name}, {args.resolution} px, {threads} threads")
    print(f"{'features':<36} {'5-NN':>6} {'1-NN':>6} {'pictures/s':>10}")
    started = time.perf_counter()
    report("raw pixels", pixels(pictures), time.perf_counter() - started)
    for name in args.encoders:
        trained = load_encoder(find_weights(name))
        variants = [(f"{name}, random weights", random_encoder(trained.config)), (name, trained)]
        for size in args.input_sizes:
            smaller = load_encoder(find_weights(name))
            smaller.config = dataclasses.replace(smaller.config, input_size=size)
            variants.append((f"{name} at {size} px", smaller))
        for title, encoder in variants:
            started = time.perf_counter()
            rows = embed(encoder, pictures)
            report(title, rows, time.perf_counter() - started)
    print(
        json.dumps(
            about("benchmarks.neighbour_accuracy", ["torch"])
            | {"source": source.note.name, "pictures": len(pictures), "results": results}
        )
    )


if __name__ == "__main__":
    main()
