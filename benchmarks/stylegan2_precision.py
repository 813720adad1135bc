"""FP16, BF16 and INT8 of StyleGAN2's generator at the published widths: what stays in float32, and the PSNR.

    python -m benchmarks.stylegan2_precision --resolution 128 --out report/

Weights are random, for published ones could not be had, and spread as training spreads them: output
channels of a kernel differ by log-normal factors, styles are log-normal with a tail, channels have
biases far from zero, noise has a strength, and some layers reach the clamp. The exporter finds by
measurement which nodes stay. PSNR is that of other rows than the choice was made on, against the float32
graph, of pictures brought to [-1, 1] by one factor. Writes precision-RESOLUTION.md under --out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import torch

from benchmarks.report import machine, table
from icgan_export.lower.graphs import generator_graph
from icgan_export.lower.half import TYPES, rounded
from icgan_export.lower.passes import float_pictures
from icgan_export.lower.precision import activation_ranges
from icgan_export.lower.trial import generator_trial, lower
from icgan_export.rewrite.stylegan2.choice import StyleRewrites
from icgan_runtime import latents
from icgan_runtime.backends.ort import OrtSession
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator

ROWS = 16
BANK = 64
SEED = 7  # of the rows that judge; the trial has its own


def as_trained(resolution: int, spread: float) -> StyleGAN2Generator:
    """The published widths with weights spread as described above."""
    source = torch.Generator().manual_seed(0)
    made = StyleGAN2Generator(StyleGAN2Config(resolution)).eval().requires_grad_(False)

    def normal(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=source)

    for block in made.synthesis.blocks():
        for layer in block.children():
            layer.weight.copy_(normal(layer.weight))
            out = normal(layer.weight[:, :1, :1, :1]).mul(spread).exp()
            layer.weight.mul_(out)
            inside = normal(layer.affine.bias).mul(spread).exp()  # a style's mean, far from one
            layer.affine.weight.copy_(normal(layer.affine.weight) * inside[:, None] * 0.4)
            layer.affine.bias.copy_(inside)
            layer.bias.copy_(normal(layer.bias) * normal(layer.bias).mul(spread).exp())
            if hasattr(layer, "noise_strength"):
                layer.noise_strength.fill_(0.2)
    made.mapping.w_avg.copy_(normal(made.mapping.w_avg) * 0.3)
    clamp = made.config.conv_clamp
    assert clamp is not None
    for block in made.synthesis.blocks()[-2:]:  # the layers that reach the clamp
        block.conv1.bias[:4] = clamp
    fitted(made)
    return made


def fitted(made: StyleGAN2Generator) -> None:
    """Scale the colours so that pictures fill [-1, 1]."""
    noise, embedding = inputs(8, made.config, 1)
    picture = made(torch.from_numpy(noise), torch.from_numpy(embedding))
    factor = 0.5 / float(picture.std())
    for block in made.synthesis.blocks():
        block.torgb.weight.mul_(factor)
        block.torgb.bias.mul_(factor)


def inputs(
    rows: int, config: StyleGAN2Config, seed: int
) -> tuple[
    np.ndarray[tuple[int, ...], np.dtype[np.float32]], np.ndarray[tuple[int, ...], np.dtype[np.float32]]
]:
    """Noise, and unit embeddings."""
    found = np.random.default_rng(seed).normal(size=(rows, config.embedding_dim or 0)).astype(np.float32)
    noise = latents.noise(seed, np.arange(rows), np.inf, config.dim_z)
    return noise, found / np.linalg.norm(found, axis=1, keepdims=True)


def psnr(graph: onnx.ModelProto, found: onnx.ModelProto, config: StyleGAN2Config) -> float:
    """dB over new rows, of pictures held within [-1, 1]."""
    noise, embedding = inputs(ROWS, config, SEED)
    feeds = {"noise": noise, "embedding": embedding, "truncation": np.ones(ROWS, np.float32)}
    errors = []
    with (
        OrtSession(float_copy(graph), "exact") as exact,
        OrtSession(float_copy(rounded(found)), "found") as low,
    ):
        for row in range(0, ROWS, 4):
            some = {name: value[row : row + 4] for name, value in feeds.items()}
            pair = (session.run(some)["image"].clip(-1, 1) for session in (exact, low))
            errors.append(float(np.square(np.subtract(*pair), dtype=np.float64).mean()))
    return 10 * math.log10(4 / float(np.mean(errors)))


def float_copy(model: onnx.ModelProto) -> bytes:
    """The graph with its picture in float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return float_pictures(copy).SerializeToString()


def main() -> None:
    """Lower, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--precision", nargs="+", default=["fp16", "bf16", "int8"])
    parser.add_argument("--spread", type=float, default=1.5, help="standard deviation of the logarithms")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    generator = as_trained(options.resolution, options.spread)
    config = generator.config
    graph = generator_graph(generator, StyleRewrites.best(config), {}, truncated=True)
    trial = generator_trial(config.dim_z, 0, inputs(BANK, config, 0)[1], graph)
    ranges = activation_ranges(graph, trial.feeds)
    kinds = {node.name: node.op_type for node in graph.graph.node}
    about = {
        "resolution": options.resolution,
        "spread": options.spread,
        "nodes": len(kinds),
        "largest activation": float(f"{max(ranges.values()):.4g}"),
        "machine": machine(),
    }
    titles = ["precision", "PSNR, dB", "MB", "kept in float32", "of them", "seconds"]
    rows: list[list[object]] = []
    for precision in options.precision:
        start = time.monotonic()
        found = lower(graph, precision, ranges, trial)
        seconds = time.monotonic() - start
        reasons = Counter(
            f"{kinds[node.node]}: {'overflow' if 'activation' in node.reason else node.reason}"
            if precision in TYPES
            else f"{kinds[node.node]}: costly"
            for node in found.kept
        )
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        decibels, size = psnr(graph, found.model, config), found.model.ByteSize() / 1e6
        kept = [len(found.kept), listed or "none", f"{seconds:.0f}"]
        rows.append([precision, f"{decibels:.1f}", f"{size:.0f}", *kept])
        print(*rows[-1], sep=" | ", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"precision-{options.resolution}.md").write_text(
        f"{json.dumps(about)}\n\n{table(titles, rows)}"
    )


if __name__ == "__main__":
    main()
