"""More than a server can answer: `python -m benchmarks.ceiling --load` asks beyond its capacity.

Arrivals are Poisson and wait for nobody, as the requests of many people do. At twice the measured capacity a
server should refuse what it cannot answer at once, and answer the rest about as fast as at 80 % of it. A
flood of large photos should not keep requests waiting that decode nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.ceiling_requests import REFUSED_S, SCENARIOS, Ask, Post, Send, Sender

SHARES = (0.8, 2.0)
CLIENTS = (8, 32)  # the more answers per second are the capacity: few are never refused, many share batches
LINES = 256  # requests under way at most: beyond that an arrival waits here, and its wait counts
FLOOD, VICTIM = "1 row, different 12 MP", "1 row, embedding"


async def closed(send: Send, clients: Sequence[int], seconds: float) -> tuple[list[float], float]:
    """Latencies of clients that ask without pause but after a refusal, and answers per second.

    Counted is what is answered in `seconds` after half as long: while a server fills up it answers nothing.
    """
    latencies: list[float] = []
    since = time.perf_counter() + seconds / 2

    async def client(number: int) -> None:
        while (begun := time.perf_counter()) - since < seconds:
            if await send(number):
                ended = time.perf_counter()
                if 0 <= ended - since < seconds:
                    latencies.append(ended - begun)
            else:
                await asyncio.sleep(REFUSED_S)

    await asyncio.gather(*(client(number) for number in clients))
    return latencies, len(latencies) / seconds


async def opened(send: Send, rate: float, seconds: float) -> dict[str, float]:
    """Poisson arrivals: latencies of what was answered, and how soon the rest was refused."""
    pauses = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds) + 1)
    answered: list[float] = []
    refused: list[float] = []
    late: list[float] = []  # this process has no time to send what is due
    started = time.perf_counter()

    async def arrive(number: int, due: float) -> None:
        await asyncio.sleep(max(0, started + due - time.perf_counter()))
        begun = time.perf_counter()
        late.append(begun - started - due)
        good = await send(number % LINES)
        (answered if good else refused).append(time.perf_counter() - begun)

    await asyncio.gather(*(arrive(number, due) for number, due in enumerate(np.cumsum(pauses))))

    def percentile(values: list[float], share: float) -> float:
        return 1000 * float(np.percentile(values, share)) if values else 0.0

    return {
        "offered_per_second": rate,
        "answered_per_second": len(answered) / seconds,
        "refused_share": len(refused) / len(pauses),
        "p50_ms": percentile(answered, 50),
        "p99_ms": percentile(answered, 99),
        "refusal_p50_ms": percentile(refused, 50),
        "refusal_p99_ms": percentile(refused, 99),
        "late_p99_ms": percentile(late, 99),
    }


def overload(sender: Sender, requests: Sequence[Ask], seconds: float) -> dict[str, Any]:
    """Capacity, and what comes of 80 % and of twice as much."""

    async def run() -> dict[str, Any]:
        async with sender.open(requests, LINES) as send:
            capacity = max([(await closed(send, range(clients), seconds))[1] for clients in CLIENTS])
            shares = {str(share): await opened(send, share * capacity, seconds) for share in SHARES}
        return {"capacity_per_second": capacity, **shares}

    return asyncio.run(run())


def flood(sender: Sender, post: Post, clients: int, seconds: float) -> dict[str, float]:
    """p50 and p99 of requests from embeddings, alone and beside as many clients with large photos."""
    of_name = {
        scenario.name: scenario.requests(post) for scenario in SCENARIOS if scenario.name in (FLOOD, VICTIM)
    }

    async def run() -> dict[str, float]:
        async with (
            sender.open(of_name[VICTIM], clients) as send,
            sender.open(of_name[FLOOD], clients) as photos,
        ):
            alone, _ = await closed(send, range(clients), seconds)
            (beside, _), _ = await asyncio.gather(
                closed(send, range(clients), seconds), closed(photos, range(clients), seconds)
            )
        return {
            f"{name}_{unit}": value
            for name, values in (("alone", alone), ("beside", beside))
            for unit, value in (
                ("per_second", len(values) / seconds),
                ("p50_ms", 1000 * float(np.percentile(values, 50))),
                ("p99_ms", 1000 * float(np.percentile(values, 99))),
            )
        }

    return asyncio.run(run())
