"""The generator on every runner, interleaved: torch, plain exports, ours; and what each rewrite gains alone.

    python -m benchmarks.generator --resolution 128 --ch 64 --batch 1 8 32 --threads 1 2 --out report/
    python -m benchmarks.generator --weights models/demo --batch 1 8 --threads 2 --out report/
    python -m benchmarks.generator --resolution 128 --ch 64 --batch 1 8 --threads 2 --ablation --out report/

`plain` is the published arrangement exported as it is: spectral norm and batch norm's statistics folded (as
any exporter does with constants), nothing else. Without --weights the weights are random, which changes
neither shapes nor speed. Every round runs every runner once, in rotating order; ratios are taken within a
round and the median over rounds is reported, so a slow spell of the machine hits all alike. Every runner
draws from the same noise; `apart` is its largest distance in grey levels from torch's float32 picture. The
product of two 2048 x 2048 float32 matrices takes part in every round: `share of peak` counts 2 operations per
multiply-add of the plain graph (what had to be computed) and of the runner's own graph (what was). Peak
memory is that of a process of its own which loads one runner and draws one batch.

Writes generator.json, generator.md and generator.png under --out and prints the table.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from benchmarks.report import about, leave, page, table
from icgan_export.lower.arithmetic import cost
from icgan_export.lower.graphs import GraphGenerator, generator_graph
from icgan_export.lower.precision import activation_ranges, lower_to_int8
from icgan_export.rewrite.choice import BlockForm, Rewrites, Target
from icgan_runtime import latents
from icgan_runtime.bench import apart, interleave
from icgan_training.networks.checkpoint import load_generator
from icgan_training.networks.generator import Generator
from icgan_training.networks.presets import preset

Feeds = dict[str, NDArray[Any]]
Run = Callable[[Feeds], NDArray[np.uint8]]

PEAK = "matrix product"
PEAK_SIDE = 2048
LIBRARIES = ("torch", "onnx", "onnxruntime", "openvino", "numpy")  # whose versions a report names
RUNNERS = {
    "torch": "torch eager, float32",
    "torch.compile": "torch.compile, float32",
    "plain ort": "plain export, ONNX Runtime float32",
    "plain openvino": "plain export, OpenVINO float32",
    "plain openvino bf16": "plain export, OpenVINO bfloat16",
    "ort": "ours, ONNX Runtime float32",
    "openvino": "ours, OpenVINO float32",
    "openvino bf16": "ours, OpenVINO bfloat16",
    "ort int8": "ours, ONNX Runtime INT8",
    "openvino int8": "ours, OpenVINO INT8, bfloat16 elsewhere",
}
USUAL = (
    "torch",
    "plain ort",
    "plain openvino",
    "ort",
    "openvino",
    "openvino bf16",
    "openvino int8",
)
SAME_LEVELS = 1.0  # grey levels that a float32 runner may be apart


@dataclass(frozen=True)
class Subject:
    """The generator that all runners run."""

    generator: Generator
    name: str

    @functools.cached_property
    def plain(self) -> onnx.ModelProto:
        return generator_graph(self.generator, Rewrites.none(self.generator.config), {})

    def ours(self, target: Target) -> onnx.ModelProto:
        return generator_graph(self.generator, Rewrites.best(self.generator.config, target), {})

    @functools.cached_property
    def int8(self) -> onnx.ModelProto:
        model = self.ours("onnxruntime")
        feeds = self.feeds(8)
        return lower_to_int8(model, activation_ranges(model, feeds), lambda _: 0.0, 1.0).model

    def feeds(self, batch: int) -> Feeds:
        config = self.generator.config
        rng = np.random.default_rng(0)
        feeds: Feeds = {"noise": latents.noise(0, np.arange(batch), 1.0, config.dim_z)}
        if config.embedding_dim is not None:
            rows = rng.normal(size=(batch, config.embedding_dim)).astype(np.float32)
            feeds["embedding"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        if config.takes_label:
            assert config.class_count is not None
            feeds["label"] = rng.integers(0, config.class_count, batch)
        return feeds

    def multiply_adds(self, runner: str) -> int:
        """Of the graph that the runner runs, one picture; torch runs the plain arithmetic or better."""
        if runner.startswith(("torch", "plain")):
            return cost(self.plain).multiply_adds
        return cost(self.ours("openvino" if "openvino" in runner else "onnxruntime")).multiply_adds


def random_generator(resolution: int, ch: int) -> Generator:
    """The published instance-conditioned shape at this size, orthogonal weights."""
    torch.manual_seed(0)
    model = replace(preset("icgan-imagenet-64").model, resolution=resolution, ch=ch)
    return Generator(replace(model, attention=(32,) if resolution == 64 else (64,))).eval()


def open_runner(subject: Subject, runner: str, threads: int) -> Run:
    """A function feeds -> uint8 [N, R, R, 3]."""
    if runner.startswith("torch"):
        return torch_runner(subject.generator, compiled=runner == "torch.compile", threads=threads)
    graph = subject.plain if runner.startswith("plain") else None
    if "openvino" in runner:
        model = graph or (subject.int8 if "int8" in runner else subject.ours("openvino"))
        hint = "bf16" if "bf16" in runner or "int8" in runner else "f32"
        return openvino_runner(model, threads, hint)
    return ort_runner(graph or (subject.int8 if "int8" in runner else subject.ours("onnxruntime")), threads)


def torch_runner(generator: Generator, *, compiled: bool, threads: int) -> Run:
    module: Callable[..., torch.Tensor] = GraphGenerator(generator, generator.config, as_bytes=True).eval()
    if compiled:
        module = torch.compile(module, dynamic=False)  # for each batch anew, not the second for any

    def run(feeds: Feeds) -> NDArray[np.uint8]:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            image = module(*(torch.from_numpy(array) for array in feeds.values()))
        return np.asarray(image)

    return run


def ort_runner(model: onnx.ModelProto, threads: int) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # one worker must not spin while another competitor has its turn
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads > 1 else "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(["image"], feeds)[0]  # type: ignore[no-any-return]


def openvino_runner(model: onnx.ModelProto, threads: int, hint: str) -> Run:
    import io

    import openvino as ov

    core = ov.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda feeds: np.array(request.infer(feeds)[0])


def peak_runner(threads: int) -> Callable[[], object]:
    torch.manual_seed(0)
    left, right = torch.randn(PEAK_SIDE, PEAK_SIDE), torch.randn(PEAK_SIDE, PEAK_SIDE)

    def run() -> torch.Tensor:
        torch.set_num_threads(threads)
        return left @ right

    return run


def compare(
    subject: Subject, runners: dict[str, Run], batch: int, threads: int, rounds: int
) -> list[dict[str, Any]]:
    """One interleaved run; a row per runner."""
    feeds = subject.feeds(batch)
    reference = torch_runner(subject.generator, compiled=False, threads=threads)(feeds)
    work: dict[str, Callable[[], object]] = {
        name: functools.partial(run, feeds) for name, run in runners.items()
    }
    pictures = {name: run(feeds) for name, run in runners.items()}
    timings = interleave({**work, PEAK: peak_runner(threads)}, rounds)
    peak = timings.pop(PEAK)
    plain_work = 2 * batch * cost(subject.plain).multiply_adds
    rows = []
    for name, timing in timings.items():
        own_work = 2 * batch * subject.multiply_adds(name)
        # operations per second, over those of the matrix product of the same round
        pace = [p / t / (2 * PEAK_SIDE**3) for t, p in zip(timing.seconds, peak.seconds, strict=True)]
        first, third = timing.quartiles
        rows.append(
            {
                "batch": batch,
                "threads": threads,
                "runner": name,
                "median_ms": timing.median * 1e3,
                "quartiles_ms": [first * 1e3, third * 1e3],
                "p99_ms": float(np.quantile(timing.seconds, 0.99)) * 1e3,
                "fastest_ms": min(timing.seconds) * 1e3,
                "images_per_second": batch / timing.median,
                "times_faster": {other: timing.ratio(rival) for other, rival in timings.items()},
                "share_of_peak": {
                    "plain": plain_work * statistics.median(pace),
                    "own": own_work * statistics.median(pace),
                },
                "apart": apart(reference, pictures[name]),
                "psnr": psnr(reference, pictures[name]),
            }
        )
    return rows


def psnr(reference: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Over all pictures together, in dB; 99 at most, so that equal pictures stay JSON."""
    error = float(np.square(reference.astype(np.float64) - other).mean())
    return min(99.0, 10 * float(np.log10(255**2 / max(error, 1e-9))))


def ablation_runners(subject: Subject, runtime: str, threads: int) -> dict[str, Run]:
    """The best export with one rewrite switched off at a time, and the plain one."""
    config = subject.generator.config
    best = Rewrites.best(config, "openvino" if runtime == "openvino" else "onnxruntime")

    def blocks(form: BlockForm) -> tuple[BlockForm, ...]:
        return (form,) * len(best.blocks)

    variants = {
        "all rewrites": best,
        "without the condition product": replace(best, condition_product=False),
        "without the early shortcut": replace(best, early_shortcut=False),
        "without the output norm fold": replace(best, output_norm=False),
        "without the attention product": replace(best, attention_product=False),
        "all blocks transposed": replace(best, blocks=blocks("transposed")),
        "all blocks phases": replace(best, blocks=blocks("phases")),
        "all blocks products": replace(best, blocks=blocks("products")),
        "all blocks as published": replace(best, blocks=blocks("plain")),
        "plain": Rewrites.none(config),
    }
    runners = {}
    for name, rewrites in variants.items():
        model = generator_graph(subject.generator, rewrites, {})
        runners[name] = (
            openvino_runner(model, threads, "f32") if runtime == "openvino" else ort_runner(model, threads)
        )
    return runners


def peak_memory(arguments: list[str], runner: str, batch: int, threads: int) -> float:
    """Resident MiB of a process that loads one runner and draws one batch."""
    command = [sys.executable, "-m", "benchmarks.generator", *arguments, "--only", runner]
    command += ["--batch", str(batch), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def run_only(subject: Subject, runner: str, batch: int, threads: int) -> None:
    """Print the resident MiB at peak of one runner, without what the export before it needed."""
    if runner.startswith("torch"):
        open_runner(subject, runner, threads)(subject.feeds(batch))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    feeds = subject.feeds(batch)
    run = open_runner(subject, runner, threads)
    del subject
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    run(feeds)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            print(int(line.split()[1]) / 1024)


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    base = report["base"]
    heads = ["runner", "median ms", "quartiles", "p99", "fastest", "img/s", "x", "share of peak", "peak MiB"]
    tables = []
    for threads, batch in sorted({(row["threads"], row["batch"]) for row in report["rows"]}):
        rows = [
            [
                RUNNERS.get(row["runner"], row["runner"]),
                f"{row['median_ms']:.1f}",
                "{:.1f} to {:.1f}".format(*row["quartiles_ms"]),
                f"{row['p99_ms']:.1f}",
                f"{row['fastest_ms']:.1f}",
                f"{row['images_per_second']:.1f}",
                f"{row['times_faster'][base]:.2f}",
                f"{row['share_of_peak']['plain']:.0%} / {row['share_of_peak']['own']:.0%}",
                f"{row['peak_mib']:.0f}" if "peak_mib" in row else "",
                f"{row['apart']:.0f} / {row['psnr']:.1f}",
            ]
            for row in report["rows"]
            if (row["threads"], row["batch"]) == (threads, batch)
        ]
        title = f"## Batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
        tables.append(f"{title}\n\n{table([*heads, 'apart'], rows)}")
    notes = (
        f"{report['rounds']} rounds.\n\n`x` is how many times faster than {base}, median over rounds of the "
        "ratio within a round. Share of peak: of the float32 matrix product in the same rounds, by the plain "
        "graph's operations / by the runner's own. Apart: from torch float32, in grey levels at most / PSNR "
        "in dB (INT8 needs 25)."
    )
    return page(f"Generator: {report['model']}", report, notes, "\n".join(tables))


def draw(report: dict[str, Any], path: Path) -> None:
    """Images per second of every runner at every setting, as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = sorted({(row["threads"], row["batch"]) for row in report["rows"]})
    figure, axes = pyplot.subplots(1, len(settings), figsize=(3.2 * len(settings) + 2.5, 4), squeeze=False)
    for axis, (threads, batch) in zip(axes[0], settings, strict=True):
        rows = [row for row in report["rows"] if (row["threads"], row["batch"]) == (threads, batch)]
        names = [RUNNERS.get(row["runner"], row["runner"]) for row in rows]
        ours = ["ours" in name or name == "all rewrites" for name in names]
        axis.barh(
            names,
            [row["images_per_second"] for row in rows],
            color=["#2a7f62" if mine else "#b8b8b8" for mine in ours],
        )
        axis.invert_yaxis()
        axis.set_title(f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}", fontsize=10)
        axis.set_xlabel("images per second")
        if axis is not axes[0][0]:
            axis.set_yticklabels([])
    figure.suptitle(report["model"], fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="run directory (default: random weights)")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--ch", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=USUAL, metavar="RUNNER")
    parser.add_argument("--ablation", action="store_true", help="each rewrite alone instead of the runners")
    parser.add_argument("--runtime", choices=("ort", "openvino"), default="ort", help="of the ablation")
    parser.add_argument("--memory", action="store_true", help="peak memory, a process per runner")
    parser.add_argument("--only", choices=RUNNERS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="folder of the report")
    args = parser.parse_args()
    if (
        args.out is not None and importlib.util.find_spec("matplotlib") is None
    ):  # known before minutes of work
        parser.error(
            "--out draws a chart with matplotlib, which is not installed: pip install 'icgan[bench]'"
        )
    size = ["--resolution", str(args.resolution), "--ch", str(args.ch)]
    if args.weights is not None:
        subject = Subject(load_generator(args.weights), str(args.weights))
        size = ["--weights", str(args.weights)]
    else:
        subject = Subject(
            random_generator(args.resolution, args.ch), f"{args.resolution} px, ch {args.ch}, random weights"
        )
    if args.only:
        run_only(subject, args.only, args.batch[0], args.threads[0])
        return

    rows: list[dict[str, Any]] = []
    for threads in args.threads:
        if args.ablation:
            runners = ablation_runners(subject, args.runtime, threads)
        else:
            runners = {name: open_runner(subject, name, threads) for name in args.runners}
        for batch in args.batch:
            print(f"batch {batch}, {threads} threads", file=sys.stderr, flush=True)
            rows += compare(subject, runners, batch, threads, args.rounds)
        del runners
    for row in rows:
        precise = not any(word in row["runner"] for word in ("bf16", "int8"))
        if precise and row["apart"] > SAME_LEVELS:
            raise SystemExit(f"{row['runner']} draws another picture: {row['apart']} grey levels apart")
        if args.memory and not args.ablation:
            row["peak_mib"] = peak_memory(size, row["runner"], row["batch"], row["threads"])
    report = about("benchmarks.generator", LIBRARIES) | {
        "model": subject.name,
        "base": "plain" if args.ablation else "plain ort" if "plain ort" in args.runners else args.runners[0],
        "rounds": args.rounds,
        "rows": rows,
    }
    leave(report, markdown(report), args.out, "generator")
    if args.out is not None:
        draw(report, args.out / "generator.png")


if __name__ == "__main__":
    main()
