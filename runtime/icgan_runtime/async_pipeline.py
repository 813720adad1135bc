"""The pipeline for asyncio: the same requests, results and errors as `Pipeline`, on a server."""

from __future__ import annotations

import asyncio
import functools
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, overload

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.bundle.manifest import Model
from icgan_runtime.chain import MAX_BATCH
from icgan_runtime.client.connection import ConnectionOptions
from icgan_runtime.drawn import Drawn
from icgan_runtime.errors import MissingExtraError
from icgan_runtime.given import check_picture, is_pictures, one_row, picture_list, refuse_forked
from icgan_runtime.images import Picture
from icgan_runtime.pipeline import Pipeline
from icgan_runtime.request import Neighbours, Result, embedding_rows, make_request, pages
from icgan_runtime.route import LOG, Route
from icgan_runtime.steer.steered import Steered

if TYPE_CHECKING:
    from icgan_runtime.client.triton import AsyncTriton

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
P = ParamSpec("P")


def _in_a_thread(
    steer: Callable[Concatenate[Pipeline, P], Steered],
) -> Callable[Concatenate[AsyncPipeline, P], Coroutine[Any, Any, Steered]]:
    """A method of Pipeline that waits for a server many times, for an AsyncPipeline.

    It runs in a thread, and so do scorers and what else it calls. The loop asks the server meanwhile.
    """

    async def awaited(self: AsyncPipeline, /, *args: P.args, **kwargs: P.kwargs) -> Steered:
        chain = self._server.beside(asyncio.get_running_loop())
        try:
            return await asyncio.to_thread(steer, Pipeline(chain), *args, **kwargs)
        finally:
            chain.close()  # whoever stopped waiting wants no more of it

    functools.update_wrapper(awaited, steer)
    return awaited


class AsyncPipeline:
    """The pipeline of a server, for asyncio.

        async with AsyncPipeline.connect("grpc://localhost:8001") as pipe:
            result = await pipe.generate("photo.jpg", n=8)

    Or `pipe = await AsyncPipeline.connect(url)`, and `await pipe.close()` at the end.
    """

    def __init__(self, server: AsyncTriton) -> None:
        self._opened = server
        self._process = os.getpid()

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        timeout_s: float = 30,
        retries: int = 3,
        shared_memory: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        balancing: str = "pick_first",
        prepare: str = "client",
    ) -> Connecting:
        """As `Pipeline.connect`: to await, or to enter with `async with`, which closes it at the end."""
        options = ConnectionOptions(
            timeout_s, retries, shared_memory, headers, ca, certificate, key, balancing, prepare
        )
        return Connecting(url, options)

    @property
    def _server(self) -> AsyncTriton:
        """The connection. BackendError in a process that was forked after it was made, as with Pipeline."""
        refuse_forked(self._process)
        return self._opened

    @property
    def model(self) -> Model:
        """What is being run: name, resolution, classes, encoder, licence."""
        return self._server.service.model

    @property
    def route(self) -> Route:
        """As `Pipeline.route`."""
        return self._server.route

    def __repr__(self) -> str:
        side = self.model.resolution
        return f"AsyncPipeline({self.model.name}, {side} × {side}, {self.route.url})"

    @overload
    async def generate(
        self,
        picture: Picture,
        *,
        n: int = 1,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
        first: int = 0,
    ) -> Result: ...

    @overload
    async def generate(
        self,
        picture: None = None,
        *,
        n: int = 1,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
        first: int = 0,
    ) -> Drawn: ...

    async def generate(
        self,
        picture: Picture | None = None,
        *,
        n: int = 1,
        seed: int = 0,
        truncation: float | None = 1.0,
        condition: str = "query",
        label: int | None = None,
        first: int = 0,
    ) -> Result | Drawn:
        """As `Pipeline.generate`."""
        request = make_request(n, seed, truncation, condition, label, self.model.classes, first)
        if picture is None:
            return await self._server.hold(self._server.service.generate_drawn(request))
        return await self._server.hold(self._server.service.generate(check_picture(picture), request))

    async def generate_from(
        self,
        embedding: F32,
        *,
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
        *,
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
                part = self.generate_from(
                    embedding,
                    n=len(page),
                    seed=seed,
                    truncation=truncation,
                    condition=condition,
                    label=label,
                    first=page.start,
                )
                waiting.append(asyncio.create_task(part))
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

    async def search(
        self, query: F32 | Picture | Sequence[Picture], *, k: int | None = None
    ) -> tuple[I64, F32]:
        """As `Pipeline.search`."""
        if is_pictures(query):
            rows = await self.embed(query)
        else:
            rows = embedding_rows(query, self.model.embedding_dim)
        service = self._server.service
        return await self._server.hold(service.search(rows, service.neighbours if k is None else k))

    async def nearest(
        self, query: F32 | Picture | Sequence[Picture], *, k: int | None = None
    ) -> list[Neighbours]:
        """As `Pipeline.nearest`."""
        if is_pictures(query):
            rows = await self.embed(query)
        else:
            rows = embedding_rows(query, self.model.embedding_dim)
        service = self._server.service
        return await self._server.hold(service.nearest(rows, service.neighbours if k is None else k))

    rank = _in_a_thread(Pipeline.rank)
    """As `Pipeline.rank`, in a thread beside the loop, which calls the scorer too."""
    interpolate = _in_a_thread(Pipeline.interpolate)
    """As `Pipeline.interpolate`."""
    guide = _in_a_thread(Pipeline.guide)
    """As `Pipeline.guide`; `progress` is called in the thread, too."""
    invert = _in_a_thread(Pipeline.invert)
    """As `Pipeline.invert`, in the same way."""

    async def close(self) -> None:
        """Close the connection; nothing in a forked process, whose parent may still use it."""
        if os.getpid() == self._process:
            await self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Connecting(Coroutine[Any, Any, AsyncPipeline]):
    """A connection yet to be made: a coroutine that gives an AsyncPipeline, or to be entered `async with`."""

    def __init__(self, url: str, options: ConnectionOptions) -> None:
        self._arguments = url, options
        self._opening = self._open()
        self._pipeline: AsyncPipeline | None = None

    def __await__(self) -> Generator[Any, None, AsyncPipeline]:
        return self._opening.__await__()

    def send(self, value: Any) -> Any:
        return self._opening.send(value)

    def throw(self, *error: Any) -> Any:
        return self._opening.throw(*error)

    def close(self) -> None:
        self._opening.close()

    async def __aenter__(self) -> AsyncPipeline:
        self._pipeline = await self._opening
        return self._pipeline

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pipeline is not None:
            await self._pipeline.close()

    async def _open(self) -> AsyncPipeline:
        try:
            from icgan_runtime.client.triton import AsyncTriton
        except ImportError:
            raise MissingExtraError("tritonclient", "triton") from None
        pipeline = AsyncPipeline(await AsyncTriton.open(*self._arguments))
        LOG.info("%s", pipeline.route)
        return pipeline
