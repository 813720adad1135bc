"""What each exact rewrite of the encoder gains alone, on ONNX Runtime in float32, interleaved.

    python -m benchmarks.encoder --weights models/demo --batch 1 8 --threads 1 --out bench/encoder

The exporter folds batch norm by itself when it optimises a graph, so that switch hardly shows here.
"""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generator import LIBRARIES
from benchmarks.report import about, leave, page, table
from icgan_export.lower.graphs import encoder_graph
from icgan_export.rewrite.encoder import EncoderRewrites
from icgan_export.source.runs import read_run
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.bench import interleave

VARIANTS = {
    "all rewrites": EncoderRewrites(),
    "without the normalisation fold": replace(EncoderRewrites(), normalisation=False),
    "without the resize as products": replace(EncoderRewrites(), resize=False),
    "without the batch norm fold": replace(EncoderRewrites(), batch_norm=False),
    "plain": EncoderRewrites.none(),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=Path("models/demo"), help="run directory")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="folder of the report")
    args = parser.parse_args()
    run = read_run(args.weights)
    size = run.model.preprocessing.size
    sessions = {}
    for name, rewrites in VARIANTS.items():
        graph = encoder_graph(run.encoder, size, {}, rewrites)
        print(f"{name}: {len(graph.graph.node)} operators", file=sys.stderr, flush=True)
        sessions[name] = OrtSession(graph.SerializeToString(), name, threads=args.threads)
    rows: list[dict[str, Any]] = []
    for batch in args.batch:
        picture = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        work = {
            name: functools.partial(session.run, {"image": picture}) for name, session in sessions.items()
        }
        found = {name: call()["embedding"] for name, call in work.items()}
        timings = interleave(work, args.rounds)
        rows += [
            {
                "batch": batch,
                "encoder": name,
                "median_ms": timing.median * 1e3,
                "quartiles_ms": [part * 1e3 for part in timing.quartiles],
                "times_faster": timing.ratio(timings["plain"]),
                "apart": float(np.abs(found[name] - found["plain"]).max()),
            }
            for name, timing in timings.items()
        ]
    heads = ["batch", "encoder", "median ms", "quartiles", "times faster than plain", "apart"]
    cells = [
        [
            row["batch"],
            row["encoder"],
            f"{row['median_ms']:.2f}",
            f"{row['quartiles_ms'][0]:.2f} to {row['quartiles_ms'][1]:.2f}",
            f"{row['times_faster']:.2f}",
            f"{row['apart']:.1e}",
        ]
        for row in rows
    ]
    title = f"Encoder: {run.model.encoder.name}, {size} px enlarged to {run.model.encoder.input_size}"
    report = about("benchmarks.encoder", LIBRARIES) | {"threads": args.threads, "rows": rows}
    notes = f"{args.threads} thread{'s' if args.threads > 1 else ''}, {args.rounds} rounds."
    leave(report, page(title, report, notes, table(heads, cells)), args.out, "encoder")


if __name__ == "__main__":
    main()
