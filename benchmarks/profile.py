"""Where a generator's time goes on ONNX Runtime: operator by operator, plain and rewritten, one thread.

    python -m benchmarks.profile --resolution 128 --ch 64 --batch 1 8 --out bench/profile

The session's own profiler; the median over runs of each operator, summed by kind. Products and convolutions
also as a share of the float32 matrix product's rate, measured between the runs: what is missing there is the
kernels' loss, what the other kinds take is the price of doing fewer multiplications.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from benchmarks.generator import LIBRARIES, PEAK_SIDE, Subject, peak_runner, random_generator
from benchmarks.report import about, leave, page, table
from icgan_export.lower.arithmetic import cost, multiply_adds_by_node
from icgan_training.networks.checkpoint import load_generator

KINDS = {
    "convolutions": ("Conv", "FusedConv", "ConvTranspose"),
    "matrix products": ("MatMul", "FusedMatMul", "Gemm", "FusedGemm"),
    "softmax": ("Softmax",),
    "sums and activations": ("Add", "Sub", "Mul", "Relu", "Tanh", "Round", "Clip", "MaxPool"),
}
REST = "moving data"  # slices, pads, joins, layouts, the enlarged shortcut


def profile(model: onnx.ModelProto, feeds: dict[str, Any], runs: int) -> dict[str, Any]:
    """Milliseconds by kind, and the rate of what multiplies."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        peak = peak_runner(1)
        pace = []
        for _ in range(runs):
            session.run(None, feeds)
            started = time.perf_counter()
            peak()
            pace.append(2 * PEAK_SIDE**3 / (time.perf_counter() - started) / 1e9)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    kind_of = {operator: kind for kind, operators in KINDS.items() for operator in operators}
    took: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for (operator, _), durations in times.items():
        kind = kind_of.get(operator, REST)
        took[kind] += statistics.median(durations[1:] or durations)
        count[kind] += 1
    batch = len(next(iter(feeds.values())))
    work: dict[str, int] = defaultdict(int)
    for node, multiply_adds in multiply_adds_by_node(model, batch):
        work[kind_of.get(node.op_type, REST)] += multiply_adds
    total, peak_rate = sum(took.values()), statistics.median(pace)
    return {
        "total_ms": total,
        "peak_gflops": peak_rate,
        "kinds": [
            {
                "kind": kind,
                "operators": count[kind],
                "ms": ms,
                "share": ms / total,
                "gflops": 2 * work[kind] / ms / 1e6 if work[kind] else None,
                "of_peak": 2 * work[kind] / ms / 1e6 / peak_rate if work[kind] else None,
            }
            for kind, ms in sorted(took.items(), key=lambda item: -item[1])
        ],
    }


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    tables = []
    for row in report["rows"]:
        title = (
            f"## {row['graph']}, batch {row['batch']}: {row['total_ms']:.1f} ms, "
            f"{row['multiply_adds'] / 1e9:.2f} G multiply-adds a picture; "
            f"matrix product {row['peak_gflops']:.0f} GFLOP/s"
        )
        cells = [
            [
                kind["kind"],
                kind["operators"],
                f"{kind['ms']:.1f}",
                f"{kind['share']:.0%}",
                "" if kind["gflops"] is None else f"{kind['gflops']:.0f}",
                "" if kind["of_peak"] is None else f"{kind['of_peak']:.0%}",
            ]
            for kind in row["kinds"]
        ]
        heads = ["", "operators", "ms", "share", "GFLOP/s", "of the matrix product"]
        tables.append(f"{title}\n\n{table(heads, cells)}")
    return page(f"Profile: {report['model']}", report, "One thread.", "\n".join(tables))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="run directory (default: random weights)")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--ch", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--out", type=Path, help="folder of the report")
    args = parser.parse_args()
    subject = (
        Subject(load_generator(args.weights), str(args.weights))
        if args.weights is not None
        else Subject(
            random_generator(args.resolution, args.ch), f"{args.resolution} px, ch {args.ch}, random weights"
        )
    )
    graphs = {"plain": subject.plain, "ours": subject.ours("onnxruntime")}
    report = about("benchmarks.profile", LIBRARIES) | {
        "model": subject.name,
        "rows": [
            {"graph": name, "batch": batch, "multiply_adds": cost(model).multiply_adds}
            | profile(model, subject.feeds(batch), args.runs)
            for batch in args.batch
            for name, model in graphs.items()
        ],
    }
    leave(report, markdown(report), args.out, "profile")


if __name__ == "__main__":
    main()
