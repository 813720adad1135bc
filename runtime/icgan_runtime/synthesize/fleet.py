"""Several servers as one chain: a request goes to the next of them, and on to another when that one fails."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.chain import Chain
from icgan_runtime.drawn import Drawn
from icgan_runtime.errors import BindingError, DeadlineError, RequestError, UnavailableError
from icgan_runtime.marks.claim import Source
from icgan_runtime.request import Neighbours, Request, Result
from icgan_runtime.route import LOG, Route
from icgan_runtime.rows import Latents, Rows

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
T = TypeVar("T")

_PAUSES_S = (1, 2, 4, 8, 16, 32)  # after rounds in which none could be reached: all may be starting anew


def connect_all(urls: Sequence[str], connect: Callable[[str], Chain]) -> Chain:
    """The servers of these addresses that can be reached, as one chain.

    Raises UnavailableError or DeadlineError where none can be.
    """
    chains: list[Chain] = []
    for number, url in enumerate(urls, 1):
        try:
            chains.append(connect(url))
        except (UnavailableError, DeadlineError) as error:
            if number == len(urls) and not chains:
                raise
            LOG.warning("%s: %s; it is left out", url, error)
    return chains[0] if len(chains) == 1 else Fleet(chains)


class Fleet:
    """Chains of servers that serve the same model. Safe to use from several threads."""

    def __init__(self, chains: Sequence[Chain]) -> None:
        self._chains = chains
        self._turns = itertools.count()
        for chain in chains[1:]:
            if chain.model.identity != self.model.identity:
                raise BindingError(
                    str(chain.route.url),
                    f"serves another model than {self.route.url}: start both with one bundle",
                )

    @property
    def model(self) -> Model:
        return self._chains[0].model

    @property
    def bank(self) -> Bank | None:
        return None

    @property
    def neighbours(self) -> int:
        return min(chain.neighbours for chain in self._chains)

    @property
    def route(self) -> Route:
        return self._chains[0].route

    def embed(self, pictures: Sequence[images.Picture]) -> F32:
        return self._ask(lambda chain: chain.embed(pictures))

    def search(self, embedding: F32, k: int) -> tuple[I64, F32]:
        return self._ask(lambda chain: chain.search(embedding, k))

    def nearest(self, embedding: F32, k: int) -> list[Neighbours]:
        return self._ask(lambda chain: chain.nearest(embedding, k))

    def generate(self, picture: images.Picture, request: Request) -> Result:
        return self._ask(lambda chain: chain.generate(picture, request))

    def generate_from(self, embedding: F32, request: Request) -> Result:
        return self._ask(lambda chain: chain.generate_from(embedding, request))

    def generate_drawn(self, request: Request) -> Drawn:
        return self._ask(lambda chain: chain.generate_drawn(request))

    def generate_rows(self, embedding: F32, rows: Rows) -> tuple[U8, I64 | None]:
        return self._ask(lambda chain: chain.generate_rows(embedding, rows))

    @property
    def source(self) -> Source:
        return self._chains[0].source

    def draw_latents(self, latents: Latents) -> U8:
        return self._ask(lambda chain: chain.draw_latents(latents))

    def with_bank(self, bank: Bank) -> Any:
        raise RequestError("bank", "a server's instances are changed on the server: docs/serving.md")

    def close(self) -> None:
        for chain in self._chains:
            chain.close()

    def _ask(self, question: Callable[[Chain], T]) -> T:
        """The answer of the server whose turn it is, or of the next that can be reached."""
        first = next(self._turns)
        for pause in (*_PAUSES_S, None):
            for more in range(len(self._chains)):
                chain = self._chains[(first + more) % len(self._chains)]
                try:
                    return question(chain)
                except (UnavailableError, DeadlineError) as error:
                    LOG.warning("%s: %s; the next server is asked", chain.route.url, error)
                    failure = error
            if pause is not None:
                time.sleep(pause)
        raise failure
