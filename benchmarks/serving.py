"""What serving costs: the ensemble against the same chain in one process, and its latency under load.

    python -m benchmarks.serving bundles/demo examples/photos/cat.jpg --out report/

Competitors take turns within every round, so that a slow spell of the machine hits all of them; ratios are
taken within a round, medians over rounds. CPU time counts the server with its processes and the client. The
load has the scenarios of MLPerf: SingleStream (one picture after another), MultiStream (eight samples at a
time), Server (Poisson arrivals, timed from when they were due), Offline (as much as goes through). Prints a
table; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from icgan_runtime import AsyncPipeline, Pipeline
from icgan_runtime.chain import LocalChain
from icgan_runtime.serve import Options as ServerOptions
from icgan_runtime.serve import Server, find_environment, free_ports
from icgan_runtime.serve_bundle import write_repository

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=10, help="of each load scenario (default 10)")
    parser.add_argument("--lookup", default="faiss")
    parser.add_argument("--out", type=Path, help="folder for report.json and, with matplotlib, load.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        write_repository(options.bundle, repository, options.lookup, 32)
        with Server(repository, find_environment(), ServerOptions(free_ports())) as server:
            server.wait_until_ready()
            report = measure(server, options)
    print_table(report)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        draw(report, options.out / "load.png")
    print(json.dumps(report))


def measure(server: Server, options: argparse.Namespace) -> dict[str, object]:
    picture = options.picture.read_bytes()
    with Pipeline.load(options.bundle) as local, Pipeline.connect(server.grpc_url) as remote:
        assert isinstance(local.chain, LocalChain)
        difference = remote.generate(picture, n=8).images.astype(int) - local.generate(picture, n=8).images
        cost = {
            str(n): compare(
                {
                    "in-process": lambda n=n: local.generate(picture, n=n),
                    "served": lambda n=n: remote.generate(picture, n=n),
                },
                server,
                options.rounds,
            )
            for n in (1, 8)
        }
        feeds = {
            "noise": np.random.default_rng(0).normal(size=(8, local.model.dim_z)).astype(np.float32),
            "embedding": local.embed(picture).repeat(8, axis=0),
        }
        if local.model.classes:
            feeds["label"] = np.zeros(8, np.int64)
        generator = local.chain.generator
        bare, served = [], []
        for _ in range(3):  # interleaved here too
            bare.append(8 * repeat(lambda: generator.run(feeds), options.seconds / 3))
            served.append(8 * asyncio.run(saturate(server.grpc_url, picture, options.seconds / 3)))
        offline = statistics.median(served)
        single = asyncio.run(saturate(server.grpc_url, picture, 2, n=1))
        load = {"SingleStream": closed(remote, picture, 1, options.seconds)}
        load["MultiStream"] = closed(remote, picture, 8, options.seconds)
        for share in (0.3, 0.6, 0.8):
            rate = share * single
            load[f"Server {share:.0%}"] = asyncio.run(
                poisson(server.grpc_url, picture, rate, options.seconds)
            )
    return {
        "model": {"name": remote.model.name, "resolution": remote.model.resolution},
        "cores": os.cpu_count(),
        "largest_difference_in_grey_levels": int(np.abs(difference).max()),
        "cost": cost,
        "offline_images_per_second": offline,
        "bare_generator_images_per_second": statistics.median(bare),
        "offline_share_of_bare_generator": statistics.median(
            one / other for one, other in zip(served, bare, strict=True)
        ),
        "load": load,
    }


def compare(
    competitors: dict[str, Callable[[], object]], server: Server, rounds: int, repeats: int = 10
) -> dict[str, object]:
    """Milliseconds of wall clock and of CPU per request, and the ratio of the second to the first."""
    names = list(competitors)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-2, rounds):
        for name in names if number % 2 else reversed(names):
            start, used = time.perf_counter(), cpu_seconds(server)
            for _ in range(repeats):
                competitors[name]()
            if number >= 0:
                wall[name].append(1000 * (time.perf_counter() - start) / repeats)
                cpu[name].append(1000 * (cpu_seconds(server) - used) / repeats)
    first, second = names
    return {
        **{f"{name} wall ms": statistics.median(wall[name]) for name in names},
        **{f"{name} cpu ms": statistics.median(cpu[name]) for name in names},
        "wall ratio": statistics.median(b / a for a, b in zip(wall[first], wall[second], strict=True)),
        "cpu ratio": statistics.median(b / a for a, b in zip(cpu[first], cpu[second], strict=True)),
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


def closed(pipe: Pipeline, picture: bytes, n: int, seconds: float) -> dict[str, float]:
    """One client that asks again as soon as it is answered."""
    latencies, started = [], time.perf_counter()
    while time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        pipe.generate(picture, n=n)
        latencies.append(time.perf_counter() - begun)
    return summary(latencies, len(latencies) / (time.perf_counter() - started), errors=0)


async def saturate(url: str, picture: bytes, seconds: float, n: int = 8, clients: int = 6) -> float:
    """Requests per second of several clients that never pause."""
    async with await AsyncPipeline.connect(url) as pipe:
        embedding = await pipe.embed(picture)
        started, count = time.perf_counter(), 0

        async def client() -> None:
            nonlocal count
            while time.perf_counter() - started < seconds:
                await pipe.generate_from(embedding, n=n)
                count += 1

        await asyncio.gather(*(client() for _ in range(clients)))
        return count / (time.perf_counter() - started)


async def poisson(url: str, picture: bytes, rate: float, seconds: float) -> dict[str, float]:
    """Arrivals that do not wait for each other. Latency counts from when a request was due."""
    arrivals, due = [], 0.0
    draw = random.Random(0)
    while due < seconds:
        due += draw.expovariate(rate)
        arrivals.append(due)
    latencies, errors = [], 0
    async with await AsyncPipeline.connect(url, retries=0) as pipe:
        embedding = await pipe.embed(picture)
        started = time.perf_counter()

        async def request(due: float) -> None:
            nonlocal errors
            await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
            try:
                await pipe.generate_from(embedding, n=1)
                latencies.append(time.perf_counter() - started - due)
            except Exception:
                errors += 1

        await asyncio.gather(*(request(due) for due in arrivals))
    return summary(latencies, rate, errors)


def summary(latencies: list[float], rate: float, errors: int) -> dict[str, float]:
    ordered = sorted(latencies)
    percentiles = {
        f"p{p} ms": 1000 * ordered[min(len(ordered) - 1, p * len(ordered) // 100)] for p in (50, 90, 99)
    }
    return {"requests per second": rate, **percentiles, "requests": len(ordered), "errors": errors}


def print_table(report: dict) -> None:
    print(f"{report['model']['name']}, {report['model']['resolution']} px, {report['cores']} cores")
    print(f"\n{'samples':>8} {'in-process':>22} {'served':>22} {'ratio':>15}")
    for n, row in report["cost"].items():
        for kind in ("wall", "cpu"):
            figures = [f"{row[f'{name} {kind} ms']:.2f} ms {kind:<4}" for name in ("in-process", "served")]
            print(f"{n:>8} {figures[0]:>22} {figures[1]:>22} {row[f'{kind} ratio']:>15.3f}")
    print(f"\noffline {report['offline_images_per_second']:.0f} images/s, ", end="")
    print(f"bare generator {report['bare_generator_images_per_second']:.0f}, ", end="")
    print(f"share {report['offline_share_of_bare_generator']:.0%}")
    print(f"\n{'scenario':>14} {'req/s':>8} {'p50 ms':>8} {'p90 ms':>8} {'p99 ms':>8} {'errors':>7}")
    for name, row in report["load"].items():
        figures = " ".join(f"{row[f'p{p} ms']:8.2f}" for p in (50, 90, 99))
        print(f"{name:>14} {row['requests per second']:8.1f} {figures} {row['errors']:7d}")


def draw(report: dict, path: Path) -> None:
    """Latency over the rate of Poisson arrivals, if matplotlib is installed."""
    try:
        from matplotlib import pyplot
    except ImportError:
        return
    rows = [row for name, row in report["load"].items() if name.startswith("Server")]
    for p in (50, 90, 99):
        pyplot.plot(
            [row["requests per second"] for row in rows],
            [row[f"p{p} ms"] for row in rows],
            "o-",
            label=f"p{p}",
        )
    pyplot.xlabel("requests per second")
    pyplot.ylabel("milliseconds")
    pyplot.ylim(bottom=0)
    pyplot.legend()
    pyplot.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
