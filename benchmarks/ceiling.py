"""What surrounds the networks, as a ceiling: a bundle of networks that cost next to nothing, really served.

    make bench-ceiling
    python -m benchmarks.ceiling --against ../icgan-before --out benchmarks/results/serving/ceiling

Graphs of the right shapes compute a few sums; client, server and stages are the real ones. Each scenario asks
without pause from some number of clients. With --against another checkout is served as well, and both take
turns of --seconds within a round; ratios are taken within a round, medians over rounds. Processor time is
what the kernel books for the server's processes: a busy machine blurs requests per second more than it does
milliseconds. Clients write requests that were serialised before and do not look at the answers: they take
little of the processor that they share with the server. Writes ceiling.md and ceiling.json under --out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ceiling_bundle import make_bundle
from benchmarks.ceiling_load import FLOOD, flood, overload
from benchmarks.ceiling_requests import REFUSED_S, SCENARIOS, Post, Scenario, Sender, of_protocol
from benchmarks.report import about, leave, page, progress, table
from icgan_runtime.bundle.manifest import Manifest
from icgan_runtime.server.environment import ENVIRONMENT_VARIABLE, find_environment
from icgan_runtime.server.process import free_ports

ROOT = Path(__file__).parents[1]
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
CLIENTS = (1, 8, 64)
OVERLOADED = ("1 row, embedding", "32 rows, one embedding", "1 row, different 2 MP", FLOOD)


@dataclass(frozen=True)
class Build:
    """A checkout that is being served."""

    name: str
    process: int  # of `icgan serve`
    http: str
    grpc: str

    def processor_seconds(self) -> dict[str, float]:
        """So far, by stage; "server" is tritonserver itself. Without `icgan serve`, which only watches."""
        found: dict[str, float] = {}
        (server,) = _children(self.process)
        for process in (server, *_children(server)):
            words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
            stage = "server" if process == server else Path(words[1]).parent.parent.name
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            found[stage] = found.get(stage, 0) + TICK_S * (int(fields[11]) + int(fields[12]))
        return found

    def memory_mib(self) -> dict[str, float]:
        """Memory that each stage has for itself."""
        (server,) = _children(self.process)
        found: dict[str, float] = {}
        for process in _children(server):
            words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
            stage = Path(words[1]).parent.parent.name
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            own = sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
            found[stage] = found.get(stage, 0) + own
        return found


def _children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout, served as well")
    parser.add_argument("--bundle", type=Path, help="of real networks, instead of free ones (with --load)")
    parser.add_argument("--resolution", type=int, default=64, help="of both pictures (default: %(default)s)")
    parser.add_argument("--width", type=int, default=2048, help="of embeddings (default: %(default)s)")
    parser.add_argument("--bank", type=int, default=1000, help="instances (default: %(default)s)")
    parser.add_argument("--scenarios", default="", help="only those with this in their name")
    parser.add_argument("--protocols", default="grpc", help="of grpc,http,shared (default: %(default)s)")
    parser.add_argument("--clients", default=",".join(map(str, CLIENTS)), help="(default: %(default)s)")
    parser.add_argument("--cores", help="pin the servers to these, as taskset -c writes them")
    parser.add_argument("--serve", default="", help="more options of icgan serve, for this checkout alone")
    parser.add_argument("--load", action="store_true", help="ask for more than can be answered, instead")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of a turn (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of the report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ceiling-") as folder:
        bundle = options.bundle or make_bundle(
            Path(folder) / "bundle", options.resolution, options.width, options.bank
        )
        if "faiss-ivf" in options.serve:
            progress("building the index")
            subprocess.run([sys.executable, "-m", "icgan_runtime", "index", bundle], check=True)
        manifest = Manifest.read(bundle)
        options.resolution, options.width = manifest.model.resolution, manifest.model.embedding_dim
        options.bank = manifest.bank.count
        with served(ROOT, "this", bundle, Path(folder), options.cores, options.serve.split()) as this:
            if options.against is None:
                report = measure([this], options)
            else:
                with served(options.against, "before", bundle, Path(folder), options.cores) as before:
                    report = measure([before, this], options)
    leave(report, (load_page if options.load else markdown)(report), options.out, "ceiling")


@contextmanager
def served(
    checkout: Path, name: str, bundle: Path, scratch: Path, cores: str | None, words: Sequence[str] = ()
) -> Iterator[Build]:
    """`icgan serve` of a checkout, until the block ends."""
    checkout, ports = checkout.absolute(), free_ports()
    packages = ":".join(str(checkout / folder) for folder in ("runtime", "export", "training"))
    variables = {**os.environ, "PYTHONPATH": packages}
    variables[ENVIRONMENT_VARIABLE] = str(environment_of(checkout, scratch / f"env-{name}"))
    command = [
        sys.executable,
        "-m",
        "icgan_runtime",
        "serve",
        str(bundle),
        "--json",
        "--log",
        "error",
        *words,
    ]
    for option, port in (("http", ports.http), ("grpc", ports.grpc), ("metrics", ports.metrics)):
        command += [f"--{option}-port", str(port)]
    pinned = ["taskset", "-c", cores] if cores else []
    progress(f"serving {checkout}")
    with subprocess.Popen([*pinned, *command], env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if not said:
                raise SystemExit(f"{checkout} does not serve: {' '.join(command)}")
            addresses = json.loads(said)
            yield Build(name, process.pid, addresses["http"], addresses["grpc"])
        finally:
            process.terminate()


def environment_of(checkout: Path, folder: Path) -> Path:
    """An environment with the packages of this checkout's server, and the modules of `checkout`."""
    ours = find_environment()
    subprocess.run([ours.python, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "checkout.pth").write_text(f"{checkout / 'runtime'}\n{ours.package.parent}\n")
    return folder


def beyond(builds: Sequence[Build], options: argparse.Namespace) -> dict[str, Any]:
    """What comes of more requests than can be answered, and of a flood of photos."""
    found: dict[str, Any] = {}
    for build in builds:
        post = Post.of(build.http, options.resolution, options.width)
        sender = of_protocol("grpc", build.grpc, build.http)
        for scenario in (
            each for each in SCENARIOS if each.name in OVERLOADED and options.scenarios in each.name
        ):
            progress(f"{build.name}: too many of {scenario.name}")
            found.setdefault(scenario.name, {})[build.name] = overload(
                sender, scenario.requests(post), options.seconds
            )
        progress(f"{build.name}: flood")
        found.setdefault("flood", {})[build.name] = flood(sender, post, 8, options.seconds)
    return found


def measure(builds: Sequence[Build], options: argparse.Namespace) -> dict[str, Any]:
    if options.load:
        return facts(builds, options) | {"load": beyond(builds, options)}
    posts = {build.name: Post.of(build.http, options.resolution, options.width) for build in builds}
    rows = []
    for protocol in options.protocols.split(","):
        for scenario in (each for each in SCENARIOS if options.scenarios in each.name):
            for clients in map(int, options.clients.split(",")):
                progress(f"{protocol}, {scenario.name}, {clients} clients")
                turns: dict[str, list[dict[str, Any]]] = {build.name: [] for build in builds}
                for number in range(options.rounds):
                    for build in builds if number % 2 else reversed(builds):
                        sender = of_protocol(protocol, build.grpc, build.http)
                        requests = scenario.requests(posts[build.name])
                        turn = ask(build, sender, requests, clients, options.seconds)
                        turns[build.name].append(turn)
                rows.append(summary(protocol, scenario, clients, turns))
                progress("  " + "  ".join(f"{key} {value:.2f}" for key, value in rows[-1]["ratio"].items()))
    return facts(builds, options) | {"rows": rows}


def facts(builds: Sequence[Build], options: argparse.Namespace) -> dict[str, Any]:
    """How a report begins."""
    return about("benchmarks.ceiling", ["tritonclient", "onnxruntime", "faiss-cpu", "pillow"]) | {
        "resolution": options.resolution,
        "width": options.width,
        "bank": options.bank,
        "cores": options.cores or f"all {len(os.sched_getaffinity(0))}",
        "serve": f", this one with {options.serve}" if options.serve else "",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "memory_mib": {build.name: build.memory_mib() for build in builds},
    }


def ask(
    build: Build, sender: Sender, requests: Sequence[Any], clients: int, seconds: float
) -> dict[str, Any]:
    """Requests without pause from `clients`, for some seconds."""

    refused: list[int] = []

    async def run() -> tuple[list[float], float, dict[str, float]]:
        async with sender.open(requests, clients) as send:
            for number in range(min(clients, 8)):
                await send(number)
            latencies: list[float] = []
            used, started = build.processor_seconds(), time.perf_counter()

            async def client(number: int) -> None:
                while (begun := time.perf_counter()) - started < seconds:
                    if await send(number):
                        latencies.append(time.perf_counter() - begun)
                    else:
                        refused.append(number)
                        await asyncio.sleep(REFUSED_S)

            await asyncio.gather(*(client(number) for number in range(clients)))
            took, now = time.perf_counter() - started, build.processor_seconds()
            return latencies, took, {stage: now[stage] - used[stage] for stage in now}

    latencies, took, used = asyncio.run(run())
    p50, p99 = (float(value) for value in 1000 * np.percentile(latencies, (50, 99)))
    return {
        "requests_per_second": len(latencies) / took,
        "refused": len(refused),
        "p50_ms": p50,
        "p99_ms": p99,
        "processor_ms": {stage: 1000 * value / len(latencies) for stage, value in used.items()},
    }


def summary(
    protocol: str, scenario: Scenario, clients: int, turns: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Medians over rounds, and of the ratios within each."""
    found: dict[str, Any] = {"protocol": protocol, "scenario": scenario.name, "clients": clients}
    for name, each in turns.items():
        stages = {stage for turn in each for stage in turn["processor_ms"]}
        found[name] = {
            key: statistics.median(turn[key] for turn in each)
            for key in ("requests_per_second", "p50_ms", "p99_ms")
        } | {
            "rows_per_second": scenario.rows
            * statistics.median(turn["requests_per_second"] for turn in each),
            "processor_ms": {
                stage: statistics.median(turn["processor_ms"][stage] for turn in each)
                for stage in sorted(stages)
            },
        }
    found["ratio"] = {}
    if "before" in turns:
        pairs = list(zip(turns["before"], turns["this"], strict=True))
        found["ratio"] = {
            "rate": statistics.median(b["requests_per_second"] / a["requests_per_second"] for a, b in pairs),
            # what as many cores could answer, were the clients elsewhere
            "processor": statistics.median(
                sum(a["processor_ms"].values()) / sum(b["processor_ms"].values()) for a, b in pairs
            ),
        }
    return found


def load_page(report: Mapping[str, Any]) -> str:
    """The report of `--load` for people."""
    loads, floods = [], []
    for name, of_build in report["load"].items():
        for build, own in of_build.items():
            if name == "flood":
                floods.append([build, *(f"{value:.1f}" for value in own.values())])
                continue
            for share, row in own.items():
                if isinstance(row, Mapping):
                    loads.append(
                        [name, build, f"{float(share):.0%}", *(f"{value:.2f}" for value in row.values())]
                    )
    keys = [
        "offered/s",
        "answered/s",
        "refused",
        "p50 ms",
        "p99 ms",
        "refused after p50 ms",
        "p99 ms",
        "sent late p99 ms",
    ]
    alone = [
        f"{where} {what}" for where in ("alone", "beside") for what in ("requests/s", "p50 ms", "p99 ms")
    ]
    body = table(["request", "build", "of capacity", *keys], loads)
    body += "\nRequests from embeddings, alone and beside as many clients with different 12-MP photos:\n\n"
    body += table(["build", *alone], floods)
    return page("Serving beyond its capacity", report, f"Servers on {report['cores']} cores.", body)


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = []
    for row in report["rows"]:
        for name in ("before", "this"):
            if name not in row:
                continue
            own = row[name]
            stages = ", ".join(
                f"{stage.removeprefix('icgan_')} {ms:.2f}"
                for stage, ms in own["processor_ms"].items()
                if ms >= 0.005
            )
            ratio = (
                [f"{row['ratio'][key]:.2f}" for key in ("rate", "processor")] if row["ratio"] else ["", ""]
            )
            lines.append(
                [
                    f"{row['protocol']}, {row['scenario']}",
                    row["clients"],
                    name,
                    f"{own['requests_per_second']:.1f}",
                    f"{own['rows_per_second']:.0f}",
                    f"{own['p50_ms']:.1f}",
                    f"{own['p99_ms']:.1f}",
                    f"{sum(own['processor_ms'].values()):.2f} ({stages})",
                    *(ratio if name == "this" else ("", "")),
                ]
            )
    titles = ["request", "clients", "build", "requests/s", "rows/s", "p50 ms", "p99 ms"]
    titles += ["processor ms per request (stages)", "rate ×", "processor ×"]
    memory = table(
        ["build", "MiB of its own, by stage"],
        [
            [
                name,
                ", ".join(f"{stage.removeprefix('icgan_')} {mib:.0f}" for stage, mib in sorted(own.items())),
            ]
            for name, own in report["memory_mib"].items()
        ],
    )
    notes = (
        f"{report['resolution']} px, embeddings of {report['width']}, {report['bank']} instances, servers on "
        f"{report['cores']} cores{report['serve']}; {report['rounds']} rounds of {report['seconds']:g} s. "
        "`rate ×` compares requests per second, `processor ×` processor time per request, before by this."
    )
    return page("The ceiling of serving", report, notes, table(titles, lines) + "\n" + memory)


if __name__ == "__main__":
    main()
