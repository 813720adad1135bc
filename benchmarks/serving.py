"""What serving costs: the ensemble against the same chain in one process and against three calls of a client.

    python -m benchmarks.serving bundles/demo examples/photos/oranges.jpg --out bench/triton

Competitors take turns within every round, so that a slow spell of the machine hits all of them; ratios are
taken within a round, medians over rounds. CPU time counts this process, the server and its Python processes.
`three calls` is a client that decodes, makes the noise and asks encoder, lookup and generator one after the
other. The load has the scenarios of MLPerf (`icgan bench --url`). With --perf-analyzer, NVIDIA's client
measures the same server too. Writes serving.json, serving.md, serving.html and load.png under --out.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import csv
import html
import importlib.util
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import about, leave, page, progress, table
from icgan_runtime import AsyncPipeline, Pipeline, images, latents, load
from icgan_runtime.chain import LocalChain
from icgan_runtime.client.protocol import Call
from icgan_runtime.client.triton import TritonChain
from icgan_runtime.cpus import usable_cpus
from icgan_runtime.server.environment import Environment, find_environment
from icgan_runtime.server.options import for_cores
from icgan_runtime.server.process import Server, ServerOptions, free_ports
from icgan_runtime.server.repository import write_repository

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
BATCHES = (1, 8)
SHARES = (0.2, 0.4, 0.6, 0.8, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--repeats",
        type=int,
        default=10,
        help="requests of a route in a round (default 10: CPU time ticks in hundredths of a second)",
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each load scenario (default 10)")
    parser.add_argument("--search", default="faiss")
    parser.add_argument("--generators", type=int, help="as of icgan serve")
    parser.add_argument("--perf-analyzer", type=Path, help="NVIDIA's client, to check ours against")
    parser.add_argument("--out", type=Path, help="folder of the report")
    options = parser.parse_args()
    if options.out and importlib.util.find_spec("matplotlib") is None:
        parser.error("--out draws a chart with matplotlib, which is missing: pip install 'icgan[bench]'")
    environment = find_environment()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        asked = replace(for_cores(usable_cpus()), search=options.search)
        if options.generators:
            asked = replace(asked, generators=options.generators)
        write_repository(options.bundle, repository, asked, progress)
        with Server(repository, environment, ServerOptions(free_ports())) as server:
            server.wait_until_ready()
            report = measure(server, options)
            if options.perf_analyzer:
                report["perf_analyzer"] = perf_analyzer(
                    options.perf_analyzer, environment, server, options.picture.read_bytes(), Path(folder)
                )
    text = markdown(report)
    leave(report, text, options.out, "serving")
    if options.out:
        draw(report["load"], options.out / "load.png")
        (options.out / "serving.html").write_text(html_page(text, (options.out / "load.png").read_bytes()))


def measure(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    picture = options.picture.read_bytes()
    with (
        Pipeline.load(options.bundle) as local,
        Pipeline.connect(server.grpc_url) as remote,
        Pipeline.connect(server.grpc_url, shared_memory="system") as shared,
    ):
        assert isinstance(local.chain, LocalChain)
        assert isinstance(remote.chain, TritonChain)
        difference = remote.generate(picture, n=8).images.astype(int) - local.generate(picture, n=8).images
        calls = three_calls(remote.chain, picture)
        cost = {}
        for n in BATCHES:
            progress(f"cost at {n} samples: {options.rounds} rounds")
            cost[str(n)] = compare(
                {
                    "in-process": lambda n=n: local.generate(picture, n=n),
                    "three calls": lambda n=n: calls(n),
                    "ensemble": lambda n=n: remote.generate(picture, n=n),
                    "ensemble, shared memory": lambda n=n: shared.generate(picture, n=n),
                },
                server,
                options.rounds,
                options.repeats,
            )
        feeds: dict[str, Any] = {
            "noise": latents.noise(0, np.arange(8), 1.0, local.model.dim_z),
            "embedding": local.embed(picture).repeat(8, axis=0),
        }
        if local.model.classes:
            feeds["label"] = np.zeros(8, np.int64)
        generator = local.chain.generator
        bare, served = [], []
        progress("saturation")
        for _ in range(5):  # interleaved here too
            bare.append(8 * repeat(lambda: generator.run(feeds), options.seconds / 5))
            served.append(asyncio.run(saturate(server.grpc_url, picture, options.seconds / 5)))
        model = {"name": local.model.name, "resolution": local.model.resolution}
    return about("benchmarks.serving") | {
        "model": model,
        "rounds": options.rounds,
        "repeats": options.repeats,
        "largest_difference_in_grey_levels": int(np.abs(difference).max()),
        "cost": cost,
        "saturation": {
            "bare_generator_images_per_second": statistics.median(bare),
            "served_images_per_second": statistics.median(served),
            "share": statistics.median(one / other for one, other in zip(served, bare, strict=True)),
        },
        "load": load.measure(
            server.grpc_url, picture, seconds=options.seconds, shares=SHARES, progress=progress
        ),
    }


def three_calls(chain: TritonChain, picture: bytes) -> Callable[[int], object]:
    """What a client would do without the ensemble: n samples of `picture` in three requests."""
    model = chain.model

    def run(n: int) -> object:
        image = images.decode(picture, model.preprocessing.size)[None]
        embedding = chain.ask(Call("icgan_encoder", {"image": image}, ("embedding",)))["embedding"]
        plain = {"SEED": 0, "SAMPLE": 0, "TRUNCATION": np.float32(1), "CONDITION": np.int32(0)}
        scalars = {name: np.array([[value]]) for name, value in plain.items()}
        if model.classes:
            scalars["LABEL"] = np.array([[0]])
        chain.ask(Call("icgan_condition", {"embedding": embedding, **scalars}, ("NEIGHBOUR_IDS",)))
        feeds: dict[str, Any] = {
            "noise": latents.noise(0, np.arange(n), 1.0, model.dim_z),
            "embedding": embedding.repeat(n, axis=0),
        }
        if model.classes:
            feeds["label"] = np.zeros((n, 1), np.int64)
        return chain.ask(Call("icgan_generator", feeds, ("image",)))["image"]

    return run


def compare(
    competitors: Mapping[str, Callable[[], object]], server: Server, rounds: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of wall clock and of CPU per request, and the ratios to the first competitor."""
    names = list(competitors)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-2, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start, used = time.perf_counter(), cpu_seconds(server)
            for _ in range(repeats):
                competitors[name]()
            if number >= 0:
                wall[name].append(1000 * (time.perf_counter() - start) / repeats)
                cpu[name].append(1000 * (cpu_seconds(server) - used) / repeats)

    def ratio(samples: Mapping[str, list[float]], name: str) -> float:
        return statistics.median(b / a for a, b in zip(samples[names[0]], samples[name], strict=True))

    return {
        name: {
            "wall_ms": statistics.median(wall[name]),
            "cpu_ms": statistics.median(cpu[name]),
            "wall_ratio": ratio(wall, name),
            "cpu_ratio": ratio(cpu, name),
        }
        for name in names
    }


def cpu_seconds(server: Server) -> float:
    """CPU time so far of this process, the server and its Python processes."""
    total = time.process_time()
    for process in (server.pid, *server.stages()):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += TICK_S * (int(fields[11]) + int(fields[12]))
    return total


def repeat(run: Callable[[], object], seconds: float) -> float:
    """Runs per second."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        run()
        count += 1
    return count / (time.perf_counter() - started)


async def saturate(url: str, picture: bytes, seconds: float) -> float:
    """Images per second from one embedding, so that all but the generator is overhead."""
    async with await AsyncPipeline.connect(url) as pipe:
        embedding = await pipe.embed(picture)
        row = await load.saturate(lambda n: pipe.generate_from(embedding, n=n), seconds, 8)
        return row["images_per_second"]


def perf_analyzer(
    program: Path, environment: Environment, server: Server, picture: bytes, scratch: Path
) -> dict[str, float]:
    """One picture after the other over gRPC, by NVIDIA's client: requests per second and milliseconds."""
    content = {"b64": base64.b64encode(len(picture).to_bytes(4, "little") + picture).decode()}
    one = {"IMAGE": content, "SEED": [0], "SAMPLE": [0], "TRUNCATION": [1.0], "CONDITION": [0]}
    (scratch / "input.json").write_text(json.dumps({"data": [one]}))
    command = [program, "-m", "icgan", "-i", "grpc", "-u", server.grpc_url.removeprefix("grpc://")]
    command += ["--input-data", scratch / "input.json", "-f", scratch / "out.csv", "-s", "999", "-r", "3"]
    variables = environment.variables()
    variables["LD_LIBRARY_PATH"] = f"{program.parent.absolute()}:{variables['LD_LIBRARY_PATH']}"
    subprocess.run(command, check=True, env=variables, capture_output=True)
    with (scratch / "out.csv").open() as file:
        row = next(csv.DictReader(file))
    return {
        "requests_per_second": float(row["Inferences/Second"]),
        **{f"p{p}_ms": float(row[f"p{p} latency"]) / 1000 for p in load.PERCENTILES},
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people."""
    model, full = report["model"], report["saturation"]
    served, bare = full["served_images_per_second"], full["bare_generator_images_per_second"]
    cost = [
        [n, name, *(f"{row[key]:.2f}" for key in ("wall_ms", "wall_ratio", "cpu_ms", "cpu_ratio"))]
        for n, routes in report["cost"].items()
        for name, row in routes.items()
    ]
    scenarios = [[name, *_rates(row), row["errors"]] for name, row in report["load"]["scenarios"].items()]
    if row := report.get("perf_analyzer"):
        alone = row | {"images_per_second": row["requests_per_second"]}
        scenarios.append(["SingleStream by perf_analyzer", *_rates(alone), ""])
    body = (
        "One picture a request, milliseconds and the ratio to the chain in one process:\n\n"
        + table(["samples", "route", "wall ms", "ratio", "CPU ms", "ratio"], cost)
        + "\nAt saturation, 8 samples a request from an embedding: "
        f"{served:.0f} images/s served, {bare:.0f} by the bare generator in a loop; "
        f"{full['share']:.0%} in the median round.\n\n"
        + table(
            ["scenario", "requests/s", "images/s", *(f"p{p} ms" for p in load.PERCENTILES), "errors"],
            scenarios,
        )
    )
    notes = (
        f"{report['rounds']} rounds of {report['repeats']} requests. Served and in-process pictures differ "
        f"by at most {report['largest_difference_in_grey_levels']} grey levels."
    )
    return page(f"Serving: {model['name']}, {model['resolution']} px", report, notes, body)


def _rates(row: Mapping[str, Any]) -> list[str]:
    found = (
        row["requests_per_second"],
        row["images_per_second"],
        *(row[f"p{p}_ms"] for p in load.PERCENTILES),
    )
    return [f"{value:.1f}" for value in found]


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Latency over the rate of Poisson arrivals."""
    from matplotlib import pyplot

    rows = [row for name, row in report["scenarios"].items() if name.startswith("Server")]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for p in load.PERCENTILES:
        points = [row["requests_per_second"] for row in rows], [row[f"p{p}_ms"] for row in rows]
        axes.plot(*points, "o-", label=f"p{p}")
    axes.set(xlabel="requests per second, Poisson arrivals", ylabel="milliseconds", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def html_page(text: str, picture: bytes) -> str:
    """The report as one HTML file."""
    encoded = base64.b64encode(picture).decode()
    return (
        '<!doctype html><meta charset="utf-8"><title>Serving</title>'
        "<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "pre{overflow-x:auto}img{max-width:100%}</style>"
        f'<pre>{html.escape(text)}</pre><img alt="latency over request rate" '
        f'src="data:image/png;base64,{encoded}">\n'
    )


if __name__ == "__main__":
    main()
