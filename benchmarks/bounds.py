"""The numbers every export must meet, on random generators of the published sizes (contract: docs/export.md).

    python -m benchmarks.bounds --resolution 64 128 256 --ch 64 96 --out bench/bounds

Orthogonal weights, attention switched on, batch norm's statistics those of one batch, so that activations
have the size that training gives them. Every graph is made as `icgan-export bundle` makes it and compared
with torch in float32 on noise and embeddings that no choice was made on. Where weights are trained the FID
counts, too: `icgan-export verify BUNDLE --fid DATA`.

Appends a row to bounds.json under --out as soon as a size is done, and writes bounds.md. Sizes that have
their row are skipped, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from benchmarks.generator import LIBRARIES, random_generator
from benchmarks.report import about, page, progress, show, table, write
from icgan_export.lower.bounds import MAX_ERROR, PSNR, limit
from icgan_export.lower.graphs import generator_graph
from icgan_export.lower.half import LARGEST_HALF, rounded
from icgan_export.lower.passes import float_pictures
from icgan_export.lower.precision import activation_ranges
from icgan_export.lower.trial import lower, picture_trial
from icgan_export.rewrite.choice import Rewrites
from icgan_runtime import latents
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.verify import psnr, to_bytes
from icgan_training.heap import keep_freed_memory
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.generator import Generator
from icgan_training.networks.layers import BATCH_NORM_MOMENTUM, BatchStatistics

CHOICE, JUDGEMENT, STATISTICS = 1, 2, 3  # seeds
GATE = 0.5  # of the attention, which starts at 0


def lively(resolution: int, ch: int, rows: int) -> Generator:
    """A random generator whose batch norms have the statistics of one batch and whose attention attends."""
    generator = random_generator(resolution, ch)
    for name, parameter in generator.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(GATE)
    feeds = inputs(generator.config, STATISTICS, rows)
    with torch.no_grad():
        generator.train()(*(torch.from_numpy(array) for array in feeds.values()))
        for module in generator.modules():
            if isinstance(module, BatchStatistics):  # the running average of 0 or 1 and the batch
                rest = 1 - BATCH_NORM_MOMENTUM
                module.stored_mean.div_(BATCH_NORM_MOMENTUM)
                module.stored_var.sub_(rest).div_(BATCH_NORM_MOMENTUM)
    return generator.eval()


def inputs(config: ModelConfig, seed: int, rows: int) -> dict[str, np.ndarray]:
    assert config.embedding_dim is not None
    embedding = latents.noise(seed + 100, np.arange(rows), 1.0, config.embedding_dim)
    return {
        "noise": latents.noise(seed, np.arange(rows), 1.0, config.dim_z),
        "embedding": embedding / np.linalg.norm(embedding, axis=1, keepdims=True),
    }


def drawn(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """float32 [N, 3, R, R], a row at a time."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = rounded(float_pictures(copy)).SerializeToString()
    with OrtSession(graph, "bounds.onnx") as session:
        rows = [
            session.run({name: array[i : i + 1] for name, array in feeds.items()})["image"]
            for i in range(len(feeds["noise"]))
        ]
    return np.concatenate(rows)


def measure(resolution: int, ch: int, rows: int, precisions: list[str]) -> dict[str, Any]:
    """One size at every precision."""
    generator = lively(resolution, ch, rows)
    chosen, judged = (inputs(generator.config, seed, rows) for seed in (CHOICE, JUDGEMENT))
    with torch.inference_mode():
        reference = torch.cat(
            [
                generator(*(torch.from_numpy(array[i : i + 1]) for array in judged.values()))
                for i in range(rows)
            ]
        ).numpy()
    progress(f"{resolution} px, ch {ch}: exporting")
    graph = generator_graph(generator, Rewrites.best(generator.config), {})
    error = float(np.abs(drawn(graph, judged) - reference).max())
    trial = picture_trial(chosen, graph)
    ranges = activation_ranges(graph, chosen)
    row: dict[str, Any] = {
        "resolution": resolution,
        "ch": ch,
        "rows": rows,
        "contrast": float(reference.std()),
        "fp32_max_error": error,
        "largest_activation": max(ranges.values()),
    }
    for precision in precisions:
        progress(f"{resolution} px, ch {ch}: {precision}")
        lowered = lower(graph, precision, ranges, trial)
        found = drawn(lowered.model, judged)
        row[precision] = {
            "psnr": psnr(to_bytes(found), to_bytes(reference)),
            "kept": len(lowered.kept),
            "megabytes": lowered.model.ByteSize() / 1e6,
        }
    return row


def passes(row: dict[str, Any]) -> bool:
    """Every bound of the row holds."""
    held = [row["fp32_max_error"] <= limit("generator", "fp32", MAX_ERROR)]
    held += [
        row[precision]["psnr"] >= limit("generator", precision, PSNR)
        for precision in ("fp16", "bf16", "int8")
        if precision in row
    ]
    return all(held)


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    titles = ["size", "pictures", "float32", "FP16", "BF16", "INT8", "largest activation", ""]
    rows = [
        [
            f"{row['resolution']} px, ch {row['ch']}",
            row["rows"],
            f"{row['fp32_max_error']:.1e}",
            *(
                f"{row[p]['psnr']:.1f} ({row[p]['kept']} kept)" if p in row else ""
                for p in ("fp16", "bf16", "int8")
            ),
            f"{row['largest_activation']:.0f} ({row['largest_activation'] / LARGEST_HALF:.2%})",
            "holds" if passes(row) else "MISSED",
        ]
        for row in report["rows"]
    ]
    notes = (
        "Float32: largest difference from torch in [-1, 1] on ONNX Runtime, at most 1e-4 allowed. Lower "
        "precisions: PSNR in dB from torch's float32 pictures (40 wanted of FP16 and BF16, 25 of INT8), with "
        "the number of nodes left in float32. Largest activation against FP16's last number, "
        f"{LARGEST_HALF:.0f}."
    )
    return page("Bounds at the published sizes, random weights", report, notes, table(titles, rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--ch", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--rows", type=int, default=4, help="pictures of each size")
    parser.add_argument("--precision", nargs="+", default=["fp16", "bf16", "int8"])
    parser.add_argument("--out", type=Path, default=Path("bench/bounds"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    file = args.out / "bounds.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    report = about("benchmarks.bounds", LIBRARIES) | {"rows": rows}
    done = {(row["resolution"], row["ch"]) for row in report["rows"]}
    for resolution in args.resolution:
        for ch in args.ch:
            if (resolution, ch) in done:
                continue
            report["rows"].append(measure(resolution, ch, args.rows, args.precision))
            write(report, markdown(report), args.out, "bounds")
    show(report, markdown(report))
    if not all(passes(row) for row in report["rows"]):
        raise SystemExit("a bound is missed")


if __name__ == "__main__":
    main()
