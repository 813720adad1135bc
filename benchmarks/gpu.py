"""The generator on an NVIDIA GPU, interleaved: torch, plain TensorRT and ours, everything on the device.

    python -m benchmarks.gpu --resolution 256 --ch 96 --batch 1 8 32 --out bench/gpu

FP16 throughout, inputs and outputs on the device, each call timed on the host until it is done. `plain
TensorRT` builds the unrewritten export with the same options. `torch.compile` runs with CUDA graphs. Share
of peak is of an 8192-cubed FP16 matrix product in the same rounds, by the plain graph's operations and by the
route's own. Builds with `tensorrt`, or with `tensorrt_rtx` where that is what there is; `--out` also gets the
inspector's layers of each plan, where the precision of every layer stands.

Writes gpu.json, gpu.md and gpu.png under --out and prints the table.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from benchmarks.generator import Feeds, Subject, draw, markdown, psnr, random_generator
from icgan_export import engine
from icgan_export.arithmetic import cost
from icgan_export.fold import Rewrites
from icgan_export.graphs import GraphGenerator, generator_graph
from icgan_export.precision import lower_to_half
from icgan_runtime.bench import Timing, apart, interleave
from icgan_runtime.manifest import GraphEntry
from icgan_training.checkpoint import load_generator

PEAK = "matrix product"
PEAK_SIDE = 8192
ROUTES = ("torch", "torch.compile", "plain tensorrt", "tensorrt")
Call = Callable[[dict[str, Tensor]], Tensor]


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """FP16 but for what is float32 by definition."""
    return lower_to_half(model, {}, lambda _: 0.0, 1.0).model


def torch_call(subject: Subject, compiled: bool) -> Call:
    generator = load_copy(subject).half().cuda().to(memory_format=torch.channels_last)
    module: Callable[..., Tensor] = GraphGenerator(generator, generator.config, as_bytes=True).eval()
    if compiled:
        module = torch.compile(module, mode="max-autotune")

    def call(feeds: dict[str, Tensor]) -> Tensor:
        with torch.inference_mode():
            halves = (value.half() if value.is_floating_point() else value for value in feeds.values())
            return module(*halves)

    return call


def load_copy(subject: Subject) -> Any:
    """The generator, free to be cast."""
    import copy

    return copy.deepcopy(subject.generator)


def plan_call(model: onnx.ModelProto, name: str, largest: int, out: Path | None) -> Call:
    from icgan_runtime.backends.trt import TrtSession

    trt = engine.load_library("auto")
    entry = GraphEntry("generator", "fp16", f"{name}.onnx", 18, (), (), "")
    settings = engine.Settings(best_batch=largest, max_batch=largest, level=4)
    plan = engine.build(trt, half(model).SerializeToString(), entry, settings, b"", say)
    say(f"{name}: {len(plan.data) / 2**20:.1f} MiB, built in {plan.seconds:.0f} s")
    if out is not None and plan.layers is not None:
        (out / f"{name.replace(' ', '-')}.layers.json").write_text(plan.layers)
    session = TrtSession(plan.data, f"{name}.plan", trt.__name__)
    return lambda feeds: torch.as_tensor(session.run_on_device(feeds)["image"], device="cuda")


def open_calls(subject: Subject, routes: list[str], largest: int, out: Path | None) -> dict[str, Call]:
    opened = {}
    for route in routes:
        say(f"preparing {route}")
        if route.startswith("torch"):
            opened[route] = torch_call(subject, compiled=route == "torch.compile")
        else:
            model = subject.plain if route.startswith("plain") else ours(subject)
            opened[route] = plan_call(model, route, largest, out)
    return opened


def ours(subject: Subject) -> onnx.ModelProto:
    return generator_graph(subject.generator, Rewrites.best(subject.generator.config, "tensorrt"), {})


def compare(subject: Subject, calls: dict[str, Call], batch: int, rounds: int) -> list[dict[str, Any]]:
    """One interleaved run; a row per route."""
    feeds: Feeds = subject.feeds(batch)
    on_device = {name: torch.from_numpy(array).cuda() for name, array in feeds.items()}
    exact = GraphGenerator(load_copy(subject).cuda(), subject.generator.config, as_bytes=True).eval()
    with torch.inference_mode():
        reference = exact(*on_device.values()).cpu().numpy()
    del exact
    pictures = {name: call(on_device).cpu().numpy().copy() for name, call in calls.items()}
    left, right = (torch.randn(PEAK_SIDE, PEAK_SIDE, device="cuda").half() for _ in range(2))

    def waited(work: Callable[[], object]) -> None:
        work()
        torch.cuda.synchronize()

    work = {
        name: functools.partial(waited, functools.partial(call, on_device)) for name, call in calls.items()
    }
    timings = interleave({**work, PEAK: functools.partial(waited, lambda: left @ right)}, rounds)
    peak = timings.pop(PEAK)
    graphs = {"plain": subject.plain, "own": ours(subject)}
    operations = {name: 2 * batch * cost(graph).multiply_adds for name, graph in graphs.items()}
    return [
        row(batch, name, timing, timings, peak, operations, reference, pictures[name])
        for name, timing in timings.items()
    ]


def row(
    batch: int,
    name: str,
    timing: Timing,
    rivals: dict[str, Timing],
    peak: Timing,
    operations: dict[str, int],
    reference: np.ndarray,
    picture: np.ndarray,
) -> dict[str, Any]:
    pace = statistics.median(
        p / t / (2 * PEAK_SIDE**3) for t, p in zip(timing.seconds, peak.seconds, strict=True)
    )
    first, third = timing.quartiles
    own = operations["own" if name == "tensorrt" else "plain"]
    return {
        "batch": batch,
        "threads": 1,
        "route": name,
        "median_ms": timing.median * 1e3,
        "quartiles_ms": [first * 1e3, third * 1e3],
        "p99_ms": float(np.quantile(timing.seconds, 0.99)) * 1e3,
        "fastest_ms": min(timing.seconds) * 1e3,
        "images_per_second": batch / timing.median,
        "times_faster": {other: timing.ratio(rival) for other, rival in rivals.items()},
        "share_of_peak": {"plain": operations["plain"] * pace, "own": own * pace},
        "apart": apart(reference, picture),
        "psnr": psnr(reference, picture),
    }


def versions() -> dict[str, str]:
    found = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    for name in ("tensorrt", "tensorrt_rtx", "cuda-python"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="run directory (default: random weights)")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--ch", type=int, default=96)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=list(ROUTES))
    parser.add_argument("--out", type=Path, help="folder of the report")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here: run `make bench-gpu` on the machine whose GPU is to be measured")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    subject = (
        Subject(load_generator(args.weights), str(args.weights))
        if args.weights is not None
        else Subject(
            random_generator(args.resolution, args.ch), f"{args.resolution} px, ch {args.ch}, random weights"
        )
    )
    calls = open_calls(subject, args.routes, max(args.batch), args.out)
    rows = []
    for batch in args.batch:
        say(f"batch {batch}")
        rows += compare(subject, calls, batch, args.rounds)
    report = {
        "model": subject.name,
        "base": "plain tensorrt" if "plain tensorrt" in args.routes else args.routes[0],
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": torch.cuda.get_device_name(),
        "versions": versions(),
        "rounds": args.rounds,
        "rows": rows,
    }
    text = markdown(report)
    print(text)
    if args.out is not None:
        (args.out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
        (args.out / "gpu.md").write_text(text)
        draw(report, args.out / "gpu.png")


if __name__ == "__main__":
    main()
