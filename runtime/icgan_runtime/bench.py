"""Latency and throughput, measured so that the comparison means something on a busy machine.

Competitors take turns: every round runs each of them once, in an order that rotates, so that a slow spell of
the machine hits all alike. A report's ratios are those of the medians beside them. Results are checked, not
only timed: a competitor that draws another image is named.

A runner runs the two graphs. ONNX Runtime and OpenVINO are built in; other packages offer theirs
through the entry point group `icgan.bench` (the exporter: torch, and edge for the files of edge runtimes),
each a function (bundle path, threads, what follows the colon) -> Runner. A runner may say `bytes_on_disk`,
the size of its files.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import latents
from icgan_runtime.backends.base import Array, Session
from icgan_runtime.backends.select import open_session
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.chain import GRAPHS
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.route import agreed
from icgan_runtime.verify import psnr

BUILT_IN = {"onnxruntime": "ort-cpu", "onnxruntime-cuda": "ort-cuda", "openvino": "openvino"}
ENTRY_POINTS = "icgan.bench"


class Runner(Protocol):
    """Runs the encoder and the generator of a bundle, with the inputs and outputs of docs/format.md."""

    @property
    def runs_on(self) -> str:
        """What it really runs on, for people."""

    def embed(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, S, S, 3] -> float32 [N, D]."""

    def generate(self, feeds: Mapping[str, Array]) -> NDArray[np.uint8]:
        """noise, embedding and, where the model takes them, label and truncation -> uint8 [N, R, R, 3]."""


@dataclass(frozen=True)
class SessionRunner:
    """The bundle's own graphs on a backend of the runtime."""

    encoder: Session
    generator: Session
    precisions: tuple[str, str]
    bytes_on_disk: int | None = None

    @classmethod
    def open(cls, bundle: Bundle, backend: str, threads: int, precision: str | None = None) -> SessionRunner:
        """Open both graphs at `precision` (default: the highest there is)."""
        entries = [bundle.manifest.graph(role, precision) for role in ("encoder", "generator")]
        encoder, generator = (open_session(bundle, entry, backend, threads) for entry in entries)
        size = sum(bundle.manifest.files[entry.file].bytes for entry in entries)
        return cls(encoder, generator, (entries[0].precision, entries[1].precision), size)

    @property
    def runs_on(self) -> str:
        backends = agreed({"encoder": self.encoder.backend, "generator": self.generator.backend})
        providers = agreed({"encoder": self.encoder.provider, "generator": self.generator.provider})
        return f"{backends} on {providers}, {agreed(dict(zip(GRAPHS, self.precisions, strict=True)))}"

    def embed(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        embedding: NDArray[np.float32] = self.encoder.run({"image": image})["embedding"]
        return embedding

    def generate(self, feeds: Mapping[str, Array]) -> NDArray[np.uint8]:
        images: NDArray[np.uint8] = self.generator.run(feeds)["image"]
        return images


@dataclass(frozen=True)
class Timing:
    """Seconds of one competitor, one per round; quartiles, not a mean: machines have slow spells."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    def ratio(self, other: Timing) -> float:
        """How many times faster than `other`: median over rounds of the ratio within the round."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


def interleave(
    competitors: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time each competitor once per round, the order rotating, after `warm_up` rounds that do not count."""
    names = list(competitors)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = clock()
            competitors[name]()
            if number >= 0:
                seconds[name].append(clock() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def open_runner(path: str | Path, name: str, threads: int) -> Runner:
    """A runner by name; "onnxruntime:int8" asks for a precision. RequestError lists what there is."""
    offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    library, _, rest = name.partition(":")
    if library in BUILT_IN:
        return SessionRunner.open(Bundle.open(path), BUILT_IN[library], threads, rest or None)
    if library not in offered:
        raise RequestError("against", f"{name!r}, expected some of {', '.join([*BUILT_IN, *offered])}")
    try:
        opened = offered[library].load()
    except ModuleNotFoundError as error:  # installed without the exporter's libraries
        raise MissingExtraError(error.name or library, "export") from None
    runner: Runner = opened(Path(path), threads, rest)
    return runner


def start(
    path: str | Path, names: Sequence[str], threads: int, feeds: Mapping[str, Array]
) -> tuple[dict[str, Runner], dict[str, dict[str, float | None]]]:
    """Runners by name, and of each what it takes until it draws: size of its files, opening, first picture.

    Opening includes the import of a library that is not imported yet.
    """
    runners: dict[str, Runner] = {}
    starts: dict[str, dict[str, float | None]] = {}
    for name in names:
        began = time.perf_counter()
        runners[name] = open_runner(path, name, threads)
        opened = time.perf_counter()
        runners[name].generate(feeds)
        drawn = time.perf_counter()
        size: int | None = getattr(runners[name], "bytes_on_disk", None)
        starts[name] = {
            "megabytes": None if size is None else round(size / 1e6, 2),
            "load_ms": round((opened - began) * 1e3, 1),
            "first_picture_ms": round((drawn - opened) * 1e3, 1),
        }
    return runners, starts


def bench(
    path: str | Path,
    names: Sequence[str],
    *,
    batches: Sequence[int] = (1, 8),
    rounds: int = 20,
    threads: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compare runners stage by stage at each batch size, in plain JSON; the first name is the base.

    Every row: stage, batch, runner, median and quartiles in milliseconds, images per second, how many times
    faster than the base, and how far its output is from the base's (grey levels, components of embeddings).
    """
    if not names:
        raise RequestError("against", "no runner given; `onnxruntime` is one")
    if min(batches, default=0) < 1:
        raise RequestError("batches", f"{list(batches)}, expected sizes of at least 1")
    if rounds < 1:
        raise RequestError("rounds", f"{rounds}, expected at least 1")
    if threads < 0:
        raise RequestError("threads", f"{threads}, expected at least 1, or 0 for one per core")
    model = Bundle.open(path).manifest.model
    runners, starts = start(path, names, threads, make_inputs(model, 1)[1])
    runs_on = {name: runner.runs_on for name, runner in runners.items()}
    for name, where in runs_on.items():
        progress(f"runner {name}: {where}")
    rows: list[dict[str, Any]] = []
    for batch in batches:
        pictures, feeds = make_inputs(model, batch)
        stages: dict[str, dict[str, Callable[[], Array]]] = {
            "encoder": {name: partial(runner.embed, pictures) for name, runner in runners.items()},
            "generator": {name: partial(runner.generate, feeds) for name, runner in runners.items()},
        }
        for stage, work in stages.items():
            progress(f"{stage}, batch {batch}: {rounds} rounds of {', '.join(names)}")
            outputs = {name: call() for name, call in work.items()}
            timings = interleave(work, rounds)
            base = names[0]
            rows += [
                {
                    "stage": stage,
                    "batch": batch,
                    "runner": name,
                    **milliseconds(timings[name]),
                    "images_per_second": round(batch / timings[name].median, 2),
                    "times_faster": round(timings[base].median / timings[name].median, 3),
                    "apart": apart(outputs[base], outputs[name]),
                    "psnr": likeness(outputs[base], outputs[name]) if stage == "generator" else None,
                }
                for name in names
            ]
    return {
        "model": model.name,
        "identity": model.identity,
        "threads": threads,
        "rounds": rounds,
        "runners": runs_on,
        "starts": starts,
        "rows": rows,
    }


def make_inputs(model: Model, batch: int) -> tuple[NDArray[np.uint8], dict[str, Array]]:
    """Pictures for the encoder and feeds for the generator: made up, but the same on every run."""
    rng = np.random.default_rng(0)
    side = model.preprocessing.size
    embedding = rng.normal(size=(batch, model.embedding_dim)).astype(np.float32)
    feeds: dict[str, Array] = {
        "noise": latents.noise(0, np.arange(batch), 1.0, model.dim_z),
        "embedding": embedding / np.linalg.norm(embedding, axis=1, keepdims=True),
    }
    if model.classes:
        feeds["label"] = rng.integers(0, model.classes, batch)
    if model.truncation == "mean-w":
        feeds["truncation"] = np.ones(batch, np.float32)
    return rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8), feeds


def milliseconds(timing: Timing) -> dict[str, float]:
    """Median and quartiles for a report."""
    first, third = timing.quartiles
    return {
        "median_ms": round(timing.median * 1e3, 4),
        "first_quartile_ms": round(first * 1e3, 4),
        "third_quartile_ms": round(third * 1e3, 4),
    }


def apart(base: Array, other: Array) -> float:
    """Largest difference of two outputs: grey levels of images, or components of embeddings."""
    return float(np.abs(base.astype(np.float64) - other).max())


def likeness(base: Array, other: Array) -> float:
    """PSNR in dB, 99 where nothing differs."""
    return round(min(psnr(base, other), 99.0), 2)


def table(report: Mapping[str, Any]) -> str:
    """The result of `bench` for people."""
    head = ("stage", "batch", "runner", "median ms", "quartiles ms", "img/s", "ratio", "apart", "PSNR")
    rows = [
        (
            row["stage"],
            str(row["batch"]),
            row["runner"],
            f"{row['median_ms']:.2f}",
            f"{row['first_quartile_ms']:.2f} .. {row['third_quartile_ms']:.2f}",
            f"{row['images_per_second']:.1f}",
            f"{row['times_faster']:.2f}",
            f"{row['apart']:.3g}",
            "" if row["psnr"] is None else f"{row['psnr']:.1f}",
        )
        for row in report["rows"]
    ]
    starts = [
        (
            name,
            "" if start["megabytes"] is None else f"{start['megabytes']:.1f}",
            f"{start['load_ms']:.0f}",
            f"{start['first_picture_ms']:.1f}",
        )
        for name, start in report["starts"].items()
    ]
    first = ("runner", "MB", "load ms", "first picture ms")
    return "\n".join([*_columns([first, *starts]), "", *_columns([head, *rows])])


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
