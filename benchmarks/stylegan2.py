"""StyleGAN2's generator: the usual export against ours on ONNX Runtime and OpenVINO, interleaved.

    python -m benchmarks.stylegan2 --resolution 128 --batch 1 8 --threads 2 --out report/
    python -m benchmarks.stylegan2 --resolution 128 --batch 1 --ablation --out ...

Networks have the published widths and random weights, which change neither shapes nor speed. `plain` is
`plain_stylegan2.py` through torch.onnx.export. Every round runs every runner once, in rotating order; the
median over rounds of the ratio within a round is printed. `apart` is the largest distance of a runner's
picture from torch's float32 one. Writes stylegan2.json and stylegan2.md under --out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.generator import openvino_runner, ort_runner
from benchmarks.plain_stylegan2 import PlainStyleGAN2
from icgan_export.lower import passes
from icgan_export.lower.graphs import GraphGenerator, generator_graph
from icgan_export.lower.onnx_export import export_onnx
from icgan_export.rewrite.choice import Target
from icgan_export.rewrite.stylegan2.choice import StyleForm, StyleRewrites
from icgan_runtime import latents
from icgan_runtime.bench import interleave
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator

Feeds = dict[str, NDArray[Any]]


def published(resolution: int) -> StyleGAN2Generator:
    """The published widths, weights at random, biases and noise where training takes them: off zero."""
    torch.manual_seed(0)
    made = StyleGAN2Generator(StyleGAN2Config(resolution)).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name.endswith(("noise_strength", "conv0.bias", "conv1.bias")):
            parameter.normal_(std=0.1)
    return made


def feeds_of(batch: int, config: StyleGAN2Config) -> Feeds:
    """Noise and unit embeddings."""
    rows = np.random.default_rng(0).normal(size=(batch, config.embedding_dim or 0)).astype(np.float32)
    noise = latents.noise(0, np.arange(batch), np.inf, config.dim_z)
    return {"noise": noise, "embedding": rows / np.linalg.norm(rows, axis=1, keepdims=True)}


def plain_graph(generator: StyleGAN2Generator) -> onnx.ModelProto:
    """What `torch.onnx.export` makes of the usual form."""
    module: nn.Module = GraphGenerator(PlainStyleGAN2(generator), generator.config, as_bytes=False)
    inputs = {name: torch.from_numpy(value) for name, value in feeds_of(2, generator.config).items()}
    return passes.clean(export_onnx(module, inputs, ["image"], {}))


def choices(config: StyleGAN2Config, target: Target, ablation: bool) -> dict[str, StyleRewrites]:
    """Ours, and with `ablation` what each rewrite leaves out, and every form of the blocks."""
    best = StyleRewrites.best(config, target)
    found = {"ours": best}
    if ablation:
        found["none"] = StyleRewrites.none(config)
        for name in ("blocks", "styles_product", "colours_product", "enlarged_colours"):
            found[f"without {name}"] = best.without([name])
        for form in get_args(StyleForm):
            found[f"all {form}"] = StyleRewrites(tuple(form for _ in best.blocks))
    return found


def runners(
    generator: StyleGAN2Generator, threads: int, ablation: bool, libraries: list[str]
) -> dict[str, Callable[[Feeds], NDArray[Any]]]:
    """Every competitor by name."""
    plain = plain_graph(generator)
    found: dict[str, Callable[[Feeds], NDArray[Any]]] = {}
    for library, target in (("onnxruntime", "onnxruntime"), ("openvino", "openvino")):
        if library not in libraries:
            continue

        def runner(model: onnx.ModelProto, library: str = library) -> Callable[[Feeds], NDArray[Any]]:
            if library == "onnxruntime":
                return ort_runner(model, threads)
            return openvino_runner(model, threads, "f32")

        found[f"{library}: plain"] = runner(plain)
        for name, rewrites in choices(generator.config, target, ablation).items():  # type: ignore[arg-type]
            found[f"{library}: {name}"] = runner(generator_graph(generator, rewrites, {}, "float32"))
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--libraries", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--ablation", action="store_true", help="every rewrite by itself")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    generator = published(options.resolution)
    competitors = runners(generator, options.threads, options.ablation, options.libraries)
    rows = []
    for batch in options.batch:
        feeds = feeds_of(batch, generator.config)
        wanted = generator(*(torch.from_numpy(value) for value in feeds.values())).numpy()
        apart = {name: float(np.abs(run(feeds) - wanted).max()) for name, run in competitors.items()}
        times = interleave(
            {name: lambda run=run, feeds=feeds: run(feeds) for name, run in competitors.items()},  # type: ignore[misc]
            options.rounds,
        )
        for name, timing in times.items():
            reference = times[name.partition(":")[0] + ": plain"].seconds
            ratios = np.array(reference) / np.array(timing.seconds)
            rows.append(
                {
                    "batch": batch,
                    "runner": name,
                    "ms": round(float(np.median(timing.seconds)) * 1e3, 1),
                    "times plain": round(float(np.median(ratios)), 2),
                    "apart": float(f"{apart[name]:.2g}"),
                }
            )
            print(rows[-1], flush=True)
    write(options, rows, float(np.abs(wanted).max()))


def write(options: argparse.Namespace, rows: list[dict[str, Any]], largest: float) -> None:
    """stylegan2.json and stylegan2.md."""
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    about = {"settings": settings, "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    about |= {"largest value of the picture": round(largest, 2)}
    (options.out / "stylegan2.json").write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    (options.out / "stylegan2.md").write_text("\n".join([json.dumps(about), "", *lines]) + "\n")


if __name__ == "__main__":
    main()
