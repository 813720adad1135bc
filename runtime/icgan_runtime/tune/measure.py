"""What a served setting gives: a server with so many clients for some seconds, and its latencies."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.async_pipeline import AsyncPipeline
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.files import cache_folder
from icgan_runtime.server.environment import Environment
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.process import Server, ServerOptions
from icgan_runtime.server.repository import write_repository
from icgan_runtime.verify import read_samples

WARM_UP_S = 0.5  # graphs prepare themselves for each new size of a batch


@dataclass(frozen=True)
class Point:
    """The answers that `clients` got, each asking again as soon as it is answered."""

    options: RepositoryOptions
    clients: int
    samples: int  # images of each request
    seconds: float
    latencies: tuple[float, ...]  # seconds, in ascending order

    @property
    def images_per_second(self) -> float:
        return self.samples * len(self.latencies) / self.seconds

    def percentile(self, p: int) -> float:
        """Seconds, of a request that was seen (nearest rank); infinity where none was answered."""
        if not self.latencies:
            return float("inf")
        return self.latencies[(p * len(self.latencies) + 99) // 100 - 1]

    def joined(self, other: Point) -> Point:
        """Two turns of the same setting and clients as one."""
        latencies = tuple(sorted(self.latencies + other.latencies))
        return Point(self.options, self.clients, self.samples, self.seconds + other.seconds, latencies)


class Trial(Protocol):
    """A setting that is being served."""

    options: RepositoryOptions

    async def turn(self, clients: int, seconds: float) -> Point:
        """Ask for `seconds`. Raises IcganError where the server does not answer."""


# Serves a setting as long as it is entered.
Stage = Callable[[RepositoryOptions], AbstractAsyncContextManager[Trial]]


class ServedTrial:
    """A real server, and one connection that all clients share."""

    def __init__(
        self, options: RepositoryOptions, pipe: AsyncPipeline, pictures: NDArray[np.uint8], samples: int
    ) -> None:
        self.options = options
        self._pipe, self._samples = pipe, samples
        self._requests = _distinct(pictures)

    async def turn(self, clients: int, seconds: float) -> Point:
        await self._ask(clients, WARM_UP_S)
        started = time.perf_counter()
        latencies = await self._ask(clients, seconds)
        return Point(
            self.options, clients, self._samples, time.perf_counter() - started, tuple(sorted(latencies))
        )

    async def _ask(self, clients: int, seconds: float) -> list[float]:
        latencies: list[float] = []
        started = time.perf_counter()

        async def client() -> None:
            while (begun := time.perf_counter()) - started < seconds:
                seed, picture = next(self._requests)
                await self._pipe.generate(picture, n=self._samples, seed=seed)
                latencies.append(time.perf_counter() - begun)

        await asyncio.gather(*(client() for _ in range(clients)))
        return latencies


def _distinct(pictures: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Seeds and pictures without end, none like another: no cache helps."""
    side = pictures.shape[1]
    for number in count():
        shift = number // len(pictures)
        picture = np.roll(pictures[number % len(pictures)], (shift // side, shift % side), (0, 1))
        yield number, picture


def stage_of(bundle: Bundle, environment: Environment, samples: int, log: Callable[[str], None]) -> Stage:
    """Serves settings of `bundle`; `log` receives what its servers say."""
    pictures = read_samples(bundle)["picture"]

    @asynccontextmanager
    async def stage(options: RepositoryOptions) -> AsyncIterator[Trial]:
        with tempfile.TemporaryDirectory(prefix="tune-", dir=cache_folder()) as folder:
            repository = Path(folder) / "model_repository"
            write_repository(bundle.root, repository, options, log)
            with Server(repository, environment, ServerOptions(), log) as server:
                server.wait_until_ready()
                async with AsyncPipeline.connect(server.grpc_url, retries=0) as pipe:
                    yield ServedTrial(options, pipe, pictures, samples)

    return stage
