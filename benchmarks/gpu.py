"""The generator on an NVIDIA GPU, interleaved: torch, plain TensorRT and ours, everything on the device.

    python -m benchmarks.gpu --resolution 256 --ch 96 --batch 1 8 32 --out bench/gpu

FP16 throughout, inputs and outputs on the device, each call timed on the host until it is done. `plain
TensorRT` builds the unrewritten export with the same options. `torch.compile` runs with CUDA graphs. The
providers of ONNX Runtime take part where onnxruntime-gpu is installed. Share of peak is of an 8192-cubed FP16
matrix product in the same rounds, by the plain graph's operations and by the runner's own. Peak memory is
what a runner takes of the device to open and to draw its largest batch. Builds with `tensorrt`, or with
`tensorrt_rtx` where that is what there is; `--out` also gets the inspector's layers of each plan, where the
precision of every layer stands. A runner that cannot be prepared is named with its reason, the others run.

Writes gpu.json, gpu.md and gpu.png under --out and prints the table.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from benchmarks.generator import Subject, draw, markdown, psnr, random_generator
from benchmarks.report import about, leave, progress
from icgan_export import engine
from icgan_export.lower.arithmetic import cost
from icgan_export.lower.graphs import GraphGenerator, generator_graph
from icgan_export.lower.precision import lower_to_half
from icgan_export.rewrite.choice import Rewrites
from icgan_runtime.bench import Timing, apart, interleave
from icgan_runtime.bundle.manifest import GraphEntry
from icgan_runtime.errors import BackendError
from icgan_training.networks.arithmetic import full_float32
from icgan_training.networks.checkpoint import load_generator

PEAK = "matrix product"
PEAK_SIDE = 8192
RUNNERS = {
    "torch": "torch eager, FP16",
    "torch.compile": "torch.compile with CUDA graphs, FP16",
    "plain tensorrt": "plain export, TensorRT",
    "tensorrt": "ours, TensorRT",
    "ort cuda": "ours, ONNX Runtime's CUDA provider",
    "ort tensorrt": "ours, ONNX Runtime's TensorRT provider",
}
Call = Callable[[dict[str, Tensor]], Tensor]


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """FP16 but for what is float32 by definition."""
    return lower_to_half(model, {}, lambda _: 0.0, 1.0).model


def torch_call(subject: Subject, compiled: bool) -> Call:
    generator = copy.deepcopy(subject.generator).half().cuda().to(memory_format=torch.channels_last)
    module: Callable[..., Tensor] = GraphGenerator(generator, generator.config, as_bytes=True).eval()
    if compiled:
        module = torch.compile(module, mode="max-autotune", dynamic=False)  # each batch size gets its own

    def call(feeds: dict[str, Tensor]) -> Tensor:
        with torch.inference_mode():
            halves = (value.half() if value.is_floating_point() else value for value in feeds.values())
            return module(*halves)

    return call


def plan_call(model: onnx.ModelProto, name: str, largest: int, out: Path | None) -> Call:
    from icgan_runtime.backends.trt import TrtSession

    trt = engine.load_library("auto")
    entry = GraphEntry("generator", "fp16", f"{name}.onnx", 18, (), (), "")
    options = engine.PlanOptions(best_batch=largest, max_batch=largest, level=4)
    plan = engine.build(trt, half(model).SerializeToString(), entry, options, b"", progress)
    progress(f"{name}: {len(plan.data) / 2**20:.1f} MiB, built in {plan.seconds:.0f} s")
    if out is not None and plan.layers is not None:
        (out / f"{name.replace(' ', '-')}.layers.json").write_text(plan.layers)
    session = TrtSession(plan.data, f"{name}.plan", trt.__name__)
    return lambda feeds: from_dlpack(session.run_on_device(feeds)["image"])


def provider_call(model: onnx.ModelProto, backend: str) -> Call:
    from icgan_runtime.backends.ort import OrtSession, available_backends

    if backend not in available_backends():
        raise BackendError(f"{backend} is not in this onnxruntime: pip install onnxruntime-gpu in its place")
    session = OrtSession(half(model).SerializeToString(), "generator.onnx", backend)
    session.require(backend)
    return lambda feeds: from_dlpack(session.run_on_device(feeds)["image"])


def open_call(subject: Subject, runner: str, largest: int, out: Path | None) -> Call:
    if runner.startswith("torch"):
        return torch_call(subject, compiled=runner == "torch.compile")
    if runner.startswith("ort"):
        return provider_call(ours(subject), runner.replace(" ", "-"))
    return plan_call(subject.plain if runner.startswith("plain") else ours(subject), runner, largest, out)


def open_calls(
    subject: Subject, runners: list[str], largest: int, out: Path | None
) -> tuple[dict[str, Call], dict[str, float], dict[str, str]]:
    """Every runner that could be opened and drew the largest batch; its MiB; why the others could not."""
    feeds = on_device(subject, largest)
    opened, memory, failed = {}, {}, {}
    for runner in runners:
        progress(f"preparing {runner}")
        torch.cuda.empty_cache()  # what torch keeps of the runner before would not be counted
        free, _ = torch.cuda.mem_get_info()
        try:
            call = open_call(subject, runner, largest, out)
            call(feeds)
            torch.cuda.synchronize()
        except Exception as error:  # one runner must not cost the others their turn on a lent machine
            failed[runner] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            progress(f"{runner} left out: {failed[runner]}")
            continue
        opened[runner], memory[runner] = call, (free - torch.cuda.mem_get_info()[0]) / 2**20
    return opened, memory, failed


def on_device(subject: Subject, batch: int) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array).cuda() for name, array in subject.feeds(batch).items()}


@functools.cache
def ours(subject: Subject) -> onnx.ModelProto:
    return generator_graph(subject.generator, Rewrites.best(subject.generator.config, "tensorrt"), {})


def exact_picture(subject: Subject, feeds: dict[str, Tensor]) -> np.ndarray:
    """What torch draws in float32, without the shortened products that cuDNN takes by default."""
    exact = copy.deepcopy(subject.generator).cuda()
    module = GraphGenerator(exact, subject.generator.config, as_bytes=True).eval()
    with torch.inference_mode(), full_float32():
        return module(*feeds.values()).cpu().numpy()


def compare(subject: Subject, calls: dict[str, Call], batch: int, rounds: int) -> list[dict[str, Any]]:
    """One interleaved run; a row per runner."""
    feeds = on_device(subject, batch)
    reference = exact_picture(subject, feeds)
    pictures = {name: call(feeds).cpu().numpy().copy() for name, call in calls.items()}
    left, right = (torch.randn(PEAK_SIDE, PEAK_SIDE).half().cuda() for _ in range(2))

    def waited(work: Callable[[], object]) -> None:
        work()
        torch.cuda.synchronize()

    work = {name: functools.partial(waited, functools.partial(call, feeds)) for name, call in calls.items()}
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
    own = operations["plain" if name.startswith(("torch", "plain")) else "own"]
    return {
        "batch": batch,
        "threads": 1,
        "runner": RUNNERS[name],
        "median_ms": timing.median * 1e3,
        "quartiles_ms": [first * 1e3, third * 1e3],
        "p99_ms": float(np.quantile(timing.seconds, 0.99)) * 1e3,
        "fastest_ms": min(timing.seconds) * 1e3,
        "images_per_second": batch / timing.median,
        "times_faster": {RUNNERS[other]: timing.ratio(rival) for other, rival in rivals.items()},
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="run directory (default: random weights)")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--ch", type=int, default=96)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=list(RUNNERS), metavar="RUNNER")
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
    calls, memory, failed = open_calls(subject, args.runners, max(args.batch), args.out)
    if not calls:
        raise SystemExit("none of the runners could be prepared, the reasons are above")
    rows = []
    for batch in args.batch:
        progress(f"batch {batch}")
        rows += compare(subject, calls, batch, args.rounds)
    for row, runner in zip(rows, [*calls] * len(args.batch), strict=True):
        row["peak_mib"] = memory[runner]
    report = about("benchmarks.gpu", where=torch.cuda.get_device_name()) | {
        "versions": versions(),
        "model": subject.name,
        "base": RUNNERS["plain tensorrt" if "plain tensorrt" in calls else next(iter(calls))],
        "rounds": args.rounds,
        "rows": rows,
        "failed": failed,
    }
    text = markdown(report)
    if failed:
        text += "".join(f"\nLeft out: {RUNNERS[name]}: {reason}" for name, reason in failed.items()) + "\n"
    leave(report, text, args.out, "gpu")
    if args.out is not None:
        try:
            draw(report, args.out / "gpu.png")
        except ImportError:
            progress("gpu.png not drawn: pip install matplotlib")


if __name__ == "__main__":
    main()
