"""The pipeline for asyncio: the same requests, results and errors as `Pipeline`, on a server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.manifest import Model
from icgan_runtime.chain import MAX_BATCH
from icgan_runtime.errors import MissingExtraError
from icgan_runtime.images import Picture
from icgan_runtime.pipeline import check_picture, one_row, picture_list
from icgan_runtime.request import Result, embedding_rows, make_request, pages

if TYPE_CHECKING:
    from icgan_runtime.client.triton import AsyncTriton

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class AsyncPipeline:
    """`async with await AsyncPipeline.connect(url) as pipe: result = await pipe.generate(picture)`."""

    def __init__(self, server: AsyncTriton) -> None:
        self._server = server

    @classmethod
    async def connect(
        cls, url: str, *, timeout_s: float = 30, retries: int = 3, shared_memory: str | None = None
    ) -> AsyncPipeline:
        """As `Pipeline.connect`."""
        try:
            from icgan_runtime.client.triton import AsyncTriton
        except ImportError:
            raise MissingExtraError("tritonclient", "triton") from None
        return cls(await AsyncTriton.open(url, timeout_s, retries, shared_memory))

    @property
    def model(self) -> Model:
        """What is being run: name, resolution, classes, encoder, licence."""
        return self._server.service.model

    async def generate(
        self,
        picture: Picture,
        n: int = 1,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
        first: int = 0,
    ) -> Result:
        """As `Pipeline.generate`."""
        request = make_request(n, seed, truncation, condition, label, self.model.classes, first)
        return await self._server.hold(self._server.service.generate(check_picture(picture), request))

    async def generate_from(
        self,
        embedding: F32,
        n: int = 1,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
        first: int = 0,
    ) -> Result:
        """As `Pipeline.generate_from`."""
        request = make_request(n, seed, truncation, condition, label, self.model.classes, first)
        row = one_row(embedding, self.model.embedding_dim)
        return await self._server.hold(self._server.service.generate_from(row, request))

    async def stream(
        self,
        picture: Picture,
        n: int,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
        batch: int = MAX_BATCH,
        ahead: int = 2,
    ) -> AsyncIterator[Result]:
        """As `Pipeline.stream`, in order, with up to `ahead` further batches under way."""
        embedding = (await self.embed(picture))[0]
        waiting: deque[asyncio.Task[Result]] = deque()
        try:
            for page in pages(n, batch):
                settings = (len(page), seed, truncation, condition, label, page.start)
                waiting.append(asyncio.create_task(self.generate_from(embedding, *settings)))
                if len(waiting) > ahead:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:  # the caller stopped early, or a batch failed
            for task in waiting:
                task.cancel()

    async def embed(self, pictures: Picture | Sequence[Picture]) -> F32:
        """As `Pipeline.embed`."""
        return await self._server.hold(self._server.service.embed(picture_list(pictures)))

    async def search(self, embedding: F32, k: int | None = None) -> tuple[I64, F32]:
        """As `Pipeline.search`."""
        rows = embedding_rows(embedding, self.model.embedding_dim)
        service = self._server.service
        return await self._server.hold(service.search(rows, service.neighbours if k is None else k))

    async def close(self) -> None:
        """Close the connection."""
        await self._server.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
