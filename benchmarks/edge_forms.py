"""What our generator gains in each edge runtime over that runtime's own conversion of the plain one.

    python -m benchmarks.edge_forms --weights models/demo --target mnn,ncnn,openvino,ort

Both are converted by `icgan_export.edge` and run at batch 1 on one thread, in turn, `--rounds` times. The
processor time of a picture is compared, lower quartile, so that what else the machine does counts little.
Prints a table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from icgan_export.edge.target import Arrays, EdgeTarget, find_target
from icgan_export.lower.graphs import generator_graph
from icgan_export.lower.passes import float_pictures
from icgan_export.rewrite.backbones import best_rewrites, no_rewrites
from icgan_runtime import latents
from icgan_training.networks.checkpoint import load_generator

WARM_UP = 5


def main() -> None:
    """Convert, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, metavar="RUN")
    parser.add_argument("--target", default="mnn,ncnn,openvino,ort")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    targets = [find_target(name) for name in options.target.split(",")]  # before minutes of tracing
    generator = load_generator(options.weights)
    shape = generator.config
    if shape.embedding_dim is None or shape.takes_label:
        raise SystemExit("--weights: a generator of noise and embedding is wanted")
    embedding = latents.noise(1, np.arange(1), 1.0, shape.embedding_dim)
    feeds = {
        "noise": latents.noise(0, np.arange(1), 1.0, shape.dim_z),
        "embedding": embedding / np.linalg.norm(embedding),
    }
    graphs = {None: generator_graph(generator, no_rewrites(shape), {}).SerializeToString()}
    print("| runtime | form | plain, ms | ours, ms | times faster |\n|---|---|---|---|---|")
    for target in targets:
        if target.form not in graphs:
            rewrites = best_rewrites(shape, target.form)
            graphs[target.form] = generator_graph(generator, rewrites, {}).SerializeToString()
        with tempfile.TemporaryDirectory() as folder:
            routes = [
                _open(target, graphs[form], Path(folder, name))
                for form, name in ((None, "plain"), (target.form, "ours"))
            ]
            plain, ours = _measure(routes, feeds, options.rounds)
        print(
            f"| {target.version} | {target.form} | {plain:.2f} | {ours:.2f} | {plain / ours:.2f} |",
            flush=True,
        )


def _open(target: EdgeTarget, graph: bytes, stem: Path) -> Callable[[Arrays], object]:
    model = onnx.load_from_string(graph)
    return target.open(target.convert(model if target.bytes_inside else float_pictures(model), stem))


def _measure(routes: list[Callable[[Arrays], object]], feeds: Arrays, rounds: int) -> list[float]:
    """Milliseconds of processor time of each route, lower quartile."""
    taken: list[list[float]] = [[] for _ in routes]
    for number in range(WARM_UP + rounds):
        for index in range(len(routes)):
            route = (index + number) % len(routes)
            began = time.process_time()
            routes[route](feeds)
            if number >= WARM_UP:
                taken[route].append(1000 * (time.process_time() - began))
    return [float(np.percentile(times, 25)) for times in taken]


if __name__ == "__main__":
    main()
