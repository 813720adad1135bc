"""Many clients, good and bad, against the real server for as long as asked: `make soak`, `make chaos`.

    python -m tests.abuse.soak bundles/demo examples/photos/*.jpg --clients 64 --minutes 30
    python -m tests.abuse.soak bundles/demo examples/photos/*.jpg --clients 16 --minutes 5 --kill-every 30

Starts `icgan serve`, watchdog included. Every good answer is compared with what the bundle draws in this
process for the same seed; every bad request must be refused as such. `--kill-every` kills a random stage of
the server with SIGKILL at that interval: requests may then fail, but must not hang or get a wrong picture.
Prints the counts, latencies of the first and the last quarter and the server's memory over time; exits with 1
if an answer was wrong, a bad request was taken, or a request was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.report import machine
from icgan_runtime import AsyncPipeline, Pipeline
from icgan_runtime.errors import DeadlineError, RequestError, ServiceError, UnavailableError
from icgan_runtime.server.process import free_ports

CONDITIONS = ("query", "nearest", "sample")
SEEDS = 8
LARGEST = 4  # pictures of one request
LARGEST_BATCH = 32  # rows that the server runs together
BAD_SHARE = 0.2
TIMEOUT_S = 60.0
HUNG_S = 90.0  # beyond the client's own time-out
STUB = "triton_python_backend_stub"
Key = tuple[str, int, str]  # picture, seed, condition


@dataclass
class Tally:
    """What became of the requests. Times are seconds since the start."""

    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[tuple[float, float]] = field(default_factory=list)  # (when, how long) of right answers
    memory: list[tuple[float, dict[str, float]]] = field(default_factory=list)  # (when, MiB of each process)
    outages: list[float] = field(default_factory=list)  # from a kill to the next right answer
    problems: list[str] = field(default_factory=list)


def bad_pictures(good: bytes) -> list[bytes]:
    """What a server must refuse: nothing, noise, half a picture, and one of 32-bit samples."""
    stream = io.BytesIO()
    Image.new("F", (9, 9)).save(stream, "TIFF")
    return [b"", b"not a picture", good[: len(good) // 3], b"\xff\xd8\xff" + bytes(5000), stream.getvalue()]


def expected_pictures(bundle: Path, photos: list[Path]) -> dict[Key, np.ndarray]:
    """All answers that the good clients may get, drawn in this process."""
    with Pipeline.load(bundle) as pipe:
        return {
            (str(photo), seed, condition): pipe.generate(
                photo, n=LARGEST, seed=seed, condition=condition
            ).images
            for photo, seed, condition in itertools.product(photos, range(SEEDS), CONDITIONS)
        }


async def client(number: int, url: str, expected: dict[Key, np.ndarray], tally: Tally, clock: Clock) -> None:
    """One client: a request after the other until the time is over."""
    rng = random.Random(number)
    keys = list(expected)
    encoded = {name: Path(name).read_bytes() for name in {key[0] for key in keys}}
    bad = bad_pictures(next(iter(encoded.values())))
    async with await AsyncPipeline.connect(url, timeout_s=TIMEOUT_S, retries=0) as pipe:
        while not clock.over:
            began = clock.now
            spoilt = rng.random() < BAD_SHARE
            name, seed, condition = key = rng.choice(keys)
            n = rng.randint(1, LARGEST)
            picture = rng.choice(bad) if spoilt else encoded[name]
            try:
                async with asyncio.timeout(HUNG_S):
                    result = await pipe.generate(picture, n=n, seed=seed, condition=condition)
            except RequestError as error:
                outcome = "refused" if spoilt else f"WRONGLY REFUSED ({error})"
            except UnavailableError:
                outcome = "unavailable"
                await asyncio.sleep(0.05)
            except DeadlineError:
                outcome = "TIMED OUT"
            except ServiceError as error:
                outcome = "failed"
                if len(tally.problems) < 20:
                    tally.problems.append(str(error)[:200])
            except TimeoutError:
                outcome = "HUNG"
            else:
                far = np.abs(result.images.astype(int) - expected[key][:n]).max()
                outcome = "TAKEN" if spoilt else "right" if far <= 1 else f"WRONG by {far}"
            tally.outcomes[outcome] += 1
            if outcome == "right":
                tally.latencies.append((clock.now, clock.now - began))
                # only what was asked after the kill shows that the service is back
                if clock.killed_at is not None and began > clock.killed_at:
                    tally.outages.append(clock.now - clock.killed_at)
                    clock.killed_at = None


@dataclass
class Clock:
    """Seconds since the start, and when to stop."""

    started: float
    seconds: float
    killed_at: float | None = None

    @property
    def now(self) -> float:
        return time.monotonic() - self.started

    @property
    def over(self) -> bool:
        return self.now >= self.seconds


def descendants(root: int) -> dict[int, str]:
    """Processes below `root`, with their command lines."""
    parents, found = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                after_name = entry.joinpath("stat").read_text().rpartition(")")[2]
                parents[int(entry.name)] = int(after_name.split()[1])
                found[int(entry.name)] = entry.joinpath("cmdline").read_text().replace("\0", " ")
    below, grown = {root}, True
    while grown:
        grown = False
        for pid, parent in parents.items():
            if parent in below and pid not in below:
                below.add(pid)
                grown = True
    return {pid: found.get(pid, "") for pid in below - {root}}


def resident_mib(processes: dict[int, str]) -> dict[str, float]:
    """Proportional resident memory by model or program, so that shared pages count once."""
    found: Counter[str] = Counter()
    for pid, words in processes.items():
        name = words.split()[1].split("/")[-3] if STUB in words else Path(words.partition(" ")[0]).name
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    found[name] += int(line.split()[1]) / 1024  # type: ignore[assignment]
    return dict(found)


async def watch_memory(root: int, tally: Tally, clock: Clock) -> None:
    while not clock.over:
        tally.memory.append((clock.now, resident_mib(descendants(root))))
        await asyncio.sleep(min(5.0, max(clock.seconds / 40, 0.5)))


async def kill_stages(root: int, every: float, tally: Tally, clock: Clock) -> None:
    rng = random.Random(0)
    await asyncio.sleep(every / 2)
    while clock.seconds - clock.now > every / 2:
        stubs = [pid for pid, command in descendants(root).items() if STUB in command]
        if stubs and clock.killed_at is None:
            clock.killed_at = clock.now
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(stubs), signal.SIGKILL)
            tally.outcomes["stages killed"] += 1
        await asyncio.sleep(every)


async def storm(url: str, root: int, expected: dict[Key, np.ndarray], options: Any) -> Tally:
    # the largest batches first: what they need stays allocated, and would look like growth if it came late
    noise = np.random.default_rng(0).integers(0, 256, (LARGEST_BATCH, 64, 64, 3), np.uint8)
    async with await AsyncPipeline.connect(url, timeout_s=TIMEOUT_S) as pipe:
        await pipe.embed(list(noise))
        await pipe.generate(noise[0], n=LARGEST_BATCH)
    tally, clock = Tally(), Clock(time.monotonic(), options.minutes * 60)
    work = [client(number, url, expected, tally, clock) for number in range(options.clients)]
    work.append(watch_memory(root, tally, clock))
    if options.kill_every:
        work.append(kill_stages(root, options.kill_every, tally, clock))
    await asyncio.gather(*work)
    return tally


def summary(tally: Tally, options: Any) -> dict[str, Any]:
    """Plain JSON."""
    seconds = options.minutes * 60

    def percentiles(since: float, until: float) -> dict[str, float]:
        taken = [took for when, took in tally.latencies if since <= when < until]
        return {f"p{q}_ms": float(np.percentile(taken, q)) * 1e3 for q in (50, 99)} if taken else {}

    second_half = [sample for sample in tally.memory if sample[0] >= seconds / 2]

    def growth(size: Callable[[dict[str, float]], float]) -> float:
        times, sizes = np.array([(when, size(held)) for when, held in second_half]).T
        return round(float(np.polyfit(times, sizes, 1)[0]) * 60, 3)

    def total(held: dict[str, float]) -> float:
        return sum(held.values())

    def size_of(name: str) -> Callable[[dict[str, float]], float]:
        return lambda held: held.get(name, 0.0)

    names = {name for _, held in second_half for name in held}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "clients": options.clients,
        "minutes": options.minutes,
        "outcomes": dict(tally.outcomes),
        "right_per_second": len(tally.latencies) / seconds,
        "first_quarter": percentiles(0, seconds / 4),
        "last_quarter": percentiles(seconds * 3 / 4, float("inf")),
        "memory_mib": {
            "first": total(tally.memory[0][1]),
            "last": total(tally.memory[-1][1]),
            "largest": max(total(held) for _, held in tally.memory),
            "slope_per_minute_second_half": growth(total),
            "slopes": {name: growth(size_of(name)) for name in sorted(names)},
        },
        "seconds_until_back": sorted(round(outage, 2) for outage in tally.outages),
        "failures": tally.problems[:5],
    }


def faults(outcomes: dict[str, int]) -> list[str]:
    """Outcomes that must not be: they are written in capitals."""
    return [outcome for outcome in outcomes if outcome[:2].isupper()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kill-every", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--out", type=Path, help="folder for soak.json or chaos.json")
    options = parser.parse_args()
    expected = expected_pictures(options.bundle, options.photos)
    ports = free_ports()
    flags = ["--http-port", ports.http, "--grpc-port", ports.grpc, "--metrics-port", ports.metrics, "--json"]
    command = [sys.executable, "-m", "icgan_runtime", "serve", str(options.bundle), *map(str, flags)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                return 1
            tally = asyncio.run(storm(json.loads(line)["grpc"], server.pid, expected, options))
        finally:
            server.terminate()
            try:
                status = f"status {server.wait(timeout=120)}"
            except subprocess.TimeoutExpired:  # a fault too, but not one to lose the report for
                status = "had to be killed"
                server.kill()
    report = summary(tally, options) | {"server": status}
    print(json.dumps(report, indent=1))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        name = "chaos" if options.kill_every else "soak"
        (options.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if faults(tally.outcomes) or status != "status 0" else 0


if __name__ == "__main__":
    sys.exit(main())
