"""Load tests of a server: latency and throughput under the four scenarios of MLPerf inference.

SingleStream: one image, then the next. MultiStream: eight samples a request. Server: Poisson arrivals that
do not wait for each other, timed from when they were due. Offline: as much as goes through. Every request
carries the picture, reduced and each time moved another way, so that each stage of the server works for it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from icgan_runtime import images
from icgan_runtime.async_pipeline import AsyncPipeline
from icgan_runtime.errors import IcganError, RequestError

MULTI_STREAM = 8  # samples of one request
OFFLINE_CLIENTS = 6
PERCENTILES = (50, 90, 99)

Ask = Callable[[int], Awaitable[object]]  # generate so many samples


def measure(
    url: str,
    picture: bytes,
    *,
    seconds: float = 10,
    shares: Sequence[float] = (0.3, 0.6, 0.8),
    progress: Callable[[str], None] = lambda line: None,
    connection: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run all scenarios, `seconds` each; Server at `shares` of the rate that single samples saturate at.

    `connection` are further arguments of `AsyncPipeline.connect`.

    Plain JSON: the model, and for each scenario requests and images per second, percentiles in milliseconds
    and the number of errors. Raises UnavailableError when there is no server at `url`.
    """
    if not 0 < seconds < math.inf:
        raise RequestError("seconds", f"{seconds:g}, expected more than 0")
    if min(shares, default=0) <= 0:
        raise RequestError("shares", f"{list(shares)}, expected some, each more than 0")
    return asyncio.run(_measure(url, picture, seconds, shares, progress, connection or {}))


async def _measure(
    url: str,
    picture: bytes,
    seconds: float,
    shares: Sequence[float],
    progress: Callable[[str], None],
    connection: Mapping[str, Any],
) -> dict[str, Any]:
    async with AsyncPipeline.connect(url, retries=0, **connection) as pipe:
        pictures = _moved(images.for_encoder(picture, pipe.model.preprocessing))

        async def ask(n: int) -> object:
            return await pipe.generate(next(pictures), n=n)

        progress(f"route: {pipe.route}")
        await ask(1)  # the first request of a server is not like the others
        rows = {}
        for name, n in (("SingleStream", 1), ("MultiStream", MULTI_STREAM)):
            progress(f"{name}: {seconds:g} s")
            rows[name] = await saturate(ask, seconds, n, clients=1)
        progress(f"Offline: {seconds:g} s")
        rows["Offline"] = await saturate(ask, seconds, MULTI_STREAM)
        limit = (await saturate(ask, seconds / 4, 1))["requests_per_second"]
        for share in shares:
            name = f"Server {share:.0%}"
            progress(f"{name} of {limit:.1f} requests/s: {seconds:g} s")
            rows[name] = await poisson(ask, share * limit, seconds)
        return {
            "url": url,
            "model": pipe.model.name,
            "route": pipe.route.to_json(),
            "seconds": seconds,
            "scenarios": rows,
        }


def _moved(picture: images.U8) -> Iterator[images.U8]:
    """Pictures [S, S, 3] of which none is another: a server computes a picture once that several wait for."""
    side = len(picture)
    return (np.roll(picture, (number // side, number % side), (0, 1)) for number in count())


async def saturate(ask: Ask, seconds: float, n: int, clients: int = OFFLINE_CLIENTS) -> dict[str, float]:
    """Clients that ask again as soon as they are answered."""
    latencies: list[float] = []
    started = time.perf_counter()

    async def client() -> None:
        while (begun := time.perf_counter()) - started < seconds:
            await ask(n)
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(client() for _ in range(clients)))
    return summary(latencies, time.perf_counter() - started, n)


async def poisson(ask: Ask, rate: float, seconds: float, n: int = 1) -> dict[str, float]:
    """Arrivals at `rate` per second. Latency counts from when a request was due, so queues show."""
    arrivals, due, draw = [], 0.0, random.Random(0)
    while due < seconds:
        due += draw.expovariate(rate)
        arrivals.append(due)
    latencies: list[float] = []
    errors = 0
    started = time.perf_counter()

    async def request(due: float) -> None:
        nonlocal errors
        await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
        try:
            await ask(n)
        except IcganError:
            errors += 1
        else:
            latencies.append(time.perf_counter() - started - due)

    await asyncio.gather(*(request(due) for due in arrivals))
    return summary(latencies, time.perf_counter() - started, n, errors)


def summary(latencies: Sequence[float], seconds: float, n: int, errors: int = 0) -> dict[str, float]:
    """Rates and percentiles of answered requests, zeros if none was answered.

    A percentile is a latency that was seen (nearest rank).
    """
    ordered = sorted(latencies)
    seen = {
        f"p{p}_ms": 1e3 * ordered[(p * len(ordered) + 99) // 100 - 1] if ordered else 0.0 for p in PERCENTILES
    }
    rate = len(ordered) / seconds
    return {
        "requests_per_second": rate,
        "images_per_second": n * rate,
        **seen,
        "requests": len(ordered),
        "errors": errors,
    }


def table(report: Mapping[str, Any]) -> str:
    """The result of `measure` for people."""
    lines = [
        f"{'scenario':>14} {'req/s':>8} {'img/s':>8} {'p50 ms':>8} {'p90 ms':>8} {'p99 ms':>8} {'errors':>7}"
    ]
    for name, row in report["scenarios"].items():
        rates = f"{row['requests_per_second']:8.1f} {row['images_per_second']:8.1f}"
        latencies = " ".join(f"{row[f'p{p}_ms']:8.2f}" for p in PERCENTILES)
        lines.append(f"{name:>14} {rates} {latencies} {row['errors']:7d}")
    return "\n".join(lines)
