"""What our generator gains in each edge runtime over that runtime's own conversion of the plain one.

    python -m benchmarks.edge_forms --weights models/demo --target mnn,ncnn,openvino,ort,web,litert,executorch
    python -m benchmarks.edge_forms --resolution 128 --ch 8 --batch 8 --target ort --out report/

Each is converted by `icgan_export.edge` and run on one thread, in turn, `--rounds` times. The processor time
of a batch is compared, lower quartile, so that what else the machine does counts little; quartiles of the
ratios within a round stand beside it. `web` is ONNX Runtime Web's WebAssembly in Node. `before` has the forms
of commit 7915c7a, for the runtimes that it wrote graphs for. Without --weights the weights are random. Prints
a table; writes forms.json and forms.md under --out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generator import Subject, random_generator
from benchmarks.report import about, leave, page, table
from icgan_export.edge.parts import torch_generator
from icgan_export.edge.target import Arrays, EdgeTarget, TorchGraph, find_target
from icgan_export.lower.graphs import generator_graph
from icgan_export.lower.passes import float_pictures
from icgan_export.rewrite.backbones import AnyRewrites, best_rewrites, no_rewrites
from icgan_export.rewrite.choice import PRODUCTS_FROM_WIDTH, Rewrites
from icgan_training.networks.backbones import AnyGenerator
from icgan_training.networks.checkpoint import load_generator
from icgan_training.networks.config import ModelConfig

LIBRARIES = ("torch", "onnx", "numpy")  # whose versions a report names; a runtime's stands in its row
WARM_UP = 2
NODE_PROGRAM = Path(__file__).with_name("edge_forms.mjs")


def main() -> None:
    """Convert, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, metavar="RUN", help="run directory (default: random weights)")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--ch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--target", default="mnn,ncnn,openvino,ort")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, help="folder of the report")
    options = parser.parse_args()
    targets = [find_target(name) for name in options.target.split(",")]  # before minutes of tracing
    if any(target.batch not in (None, options.batch) for target in targets):
        parser.error("--batch: one of the targets takes one picture at a time")
    generator = (
        load_generator(options.weights)
        if options.weights
        else random_generator(options.resolution, options.ch)
    )
    name = str(options.weights or f"{options.resolution} px, ch {options.ch}, random weights")
    if generator.config.embedding_dim is None or generator.config.takes_label:
        raise SystemExit("--weights: a generator of noise and embedding is wanted")
    feeds = Subject(generator, name).feeds(options.batch)
    rows = []
    for target in targets:
        routes = {"plain": no_rewrites(generator.config)}
        if target.form in ("onnxruntime", "openvino") and isinstance(generator.config, ModelConfig):
            routes["before"] = earlier(generator.config)
        routes["ours"] = best_rewrites(generator.config, target.form)
        rows.append(_compare(target, generator, routes, feeds, options.rounds))
    report = about("benchmarks.edge_forms", LIBRARIES) | {
        "model": name, "batch": options.batch, "rounds": options.rounds, "rows": rows
    }  # fmt: skip
    leave(report, _markdown(report), options.out, "forms")


def earlier(config: ModelConfig) -> Rewrites:
    """The forms of commit 7915c7a."""
    wide = [width >= PRODUCTS_FROM_WIDTH for width in config.generator_widths[:-1]]
    return Rewrites(tuple("products" if each else "transposed" for each in wide))


def _compare(
    target: EdgeTarget,
    generator: AnyGenerator,
    routes: Mapping[str, AnyRewrites],
    feeds: Arrays,
    rounds: int,
) -> dict[str, Any]:
    """Milliseconds of each route, lower quartile, and the quartiles of the ratios of plain to it."""
    with tempfile.TemporaryDirectory() as folder:
        files = [
            target.convert(_graph(target, generator, rewrites, feeds), Path(folder, name), "fp32")
            for name, rewrites in routes.items()
        ]
        runtime = target.version
        if target.name == "web":
            runtime, times = _measure_in_node([each[0] for each in files], feeds, rounds, Path(folder))
            taken = np.array(times)
        else:
            assert target.open is not None
            taken = np.array(_measure([target.open(each, 1) for each in files], feeds, rounds))
    ratios = np.quantile(taken[0] / taken, (0.25, 0.5, 0.75), axis=1)
    row: dict[str, Any] = {"runtime": runtime, "form": target.form}
    for index, name in enumerate(routes):
        row[name] = {"ms": float(np.quantile(taken[index], 0.25)), "times_faster": ratios[:, index].tolist()}
    return row


def _markdown(report: dict[str, Any]) -> str:
    def cells(found: dict[str, Any] | None) -> list[str]:
        if found is None:
            return ["", ""]
        first, median, third = found["times_faster"]
        return [f"{found['ms']:.2f}", f"{median:.2f} ({first:.2f} to {third:.2f})"]

    heads = ["runtime", "plain, ms", "before, ms", "times faster", "ours, ms", "times faster"]
    rows = [
        [row["runtime"], f"{row['plain']['ms']:.2f}", *cells(row.get("before")), *cells(row["ours"])]
        for row in report["rows"]
    ]
    notes = (
        f"Batch {report['batch']}, one thread, {report['rounds']} rounds, milliseconds of processor time, "
        "lower quartile; ratios to plain within a round, median and quartiles. Before: the forms of 7915c7a."
    )
    return page(f"Forms: {report['model']}", report, notes, table(heads, rows))


def _graph(target: EdgeTarget, generator: AnyGenerator, rewrites: AnyRewrites, feeds: Arrays) -> Any:
    """The generator in one form, as the target's converter reads it."""
    if target.from_torch:
        return TorchGraph(torch_generator(generator, rewrites), feeds, "image")
    graph = generator_graph(generator, rewrites, {})
    return graph if target.bytes_inside else float_pictures(graph)


def _measure_in_node(
    graphs: list[Path], feeds: Arrays, rounds: int, scratch: Path
) -> tuple[str, list[list[float]]]:
    """As `_measure`, by ONNX Runtime Web, with what that calls itself."""
    given = {name: {"dims": array.shape, "data": array.ravel().tolist()} for name, array in feeds.items()}
    task = {"graphs": [str(path) for path in graphs], "feeds": given, "rounds": rounds, "warmUp": WARM_UP}
    (scratch / "task.json").write_text(json.dumps(task))
    done = subprocess.run(["node", NODE_PROGRAM, scratch / "task.json"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"web: {done.stderr.strip()}\n`make test-edge` installs what Node needs")
    found = json.loads(done.stdout)
    return found["runtime"], found["taken"]


def _measure(routes: list[Callable[[Arrays], object]], feeds: Arrays, rounds: int) -> list[list[float]]:
    """Milliseconds of processor time of each route in every round."""
    taken: list[list[float]] = [[] for _ in routes]
    for number in range(WARM_UP + rounds):
        for index in range(len(routes)):
            route = (index + number) % len(routes)
            began = time.process_time()
            routes[route](feeds)
            if number >= WARM_UP:
                taken[route].append(1000 * (time.process_time() - began))
    return taken


if __name__ == "__main__":
    main()
