"""Clients of a Triton server, blocking and asyncio, by gRPC and HTTP: both do what exchange.py says."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.client.connection import ConnectionOptions
from icgan_runtime.client.exchange import Exchange, Pause, Step, Steps, seconds_until
from icgan_runtime.client.library import ends_trust, open_client
from icgan_runtime.client.protocol import Arrays, Call, Conversation, ServedModel
from icgan_runtime.drawn import Drawn
from icgan_runtime.errors import RequestError
from icgan_runtime.marks.claim import Source
from icgan_runtime.request import Neighbours, Request, Result
from icgan_runtime.route import Route
from icgan_runtime.rows import Latents, Rows

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
T = TypeVar("T")

HTTP_THREADS = 64  # requests that blocking HTTP clients have under way at most; more wait their turn
IDLE_S = (
    60.0  # a connection that was idle for longer is not trusted: load balancers forget it, and tell nobody
)


class Line:
    """A client of the library, and how its connection fares."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls = 0  # under way
        self.answered = time.monotonic()
        self.given_up = False

    @property
    def is_trusted(self) -> bool:
        """Whether the next call may use it."""
        idle = time.monotonic() - self.answered if not self.calls else 0
        return not self.given_up and idle < IDLE_S

    def begin(self) -> Any:
        """The client, for one call."""
        self.calls += 1
        return self.client

    def end(self, error: BaseException | None = None) -> None:
        """A call's end; after a missed deadline or a broken connection nothing more is asked over it."""
        self.calls -= 1
        if error is None:
            self.answered = time.monotonic()
        elif ends_trust(error):
            self.given_up = True

    @property
    def is_done(self) -> bool:
        """Whether it can be closed: it is not used any more."""
        return not self.calls and not self.is_trusted


class RemoteChain(ABC):
    """The chain of a Pipeline on a server, for callers that may wait; subclasses say how they wait."""

    _exchange: Exchange

    @abstractmethod
    def _hold(self, conversation: Conversation[T]) -> T:
        """Carry a conversation to its end."""

    @abstractmethod
    def close(self) -> None:
        """Ask nothing more."""

    @property
    def model(self) -> Model:
        return self._exchange.service.model

    @property
    def bank(self) -> Bank | None:
        return None

    @property
    def route(self) -> Route:
        return self._exchange.route

    @property
    def neighbours(self) -> int:
        return self._exchange.service.neighbours

    @property
    def source(self) -> Source:
        return self._exchange.service.source

    def embed(self, pictures: Sequence[images.Picture]) -> F32:
        return self._hold(self._exchange.service.embed(pictures))

    def search(self, embedding: F32, k: int) -> tuple[I64, F32]:
        return self._hold(self._exchange.service.search(embedding, k))

    def nearest(self, embedding: F32, k: int) -> list[Neighbours]:
        return self._hold(self._exchange.service.nearest(embedding, k))

    def generate(self, picture: images.Picture, request: Request) -> Result:
        return self._hold(self._exchange.service.generate(picture, request))

    def generate_from(self, embedding: F32, request: Request) -> Result:
        return self._hold(self._exchange.service.generate_from(embedding, request))

    def generate_drawn(self, request: Request) -> Drawn:
        return self._hold(self._exchange.service.generate_drawn(request))

    def generate_rows(self, embedding: F32, rows: Rows) -> tuple[U8, I64 | None]:
        return self._hold(self._exchange.service.generate_rows(embedding, rows))

    def draw_latents(self, latents: Latents) -> U8:
        return self._hold(self._exchange.service.draw_latents(latents))

    def with_bank(self, bank: Bank) -> RemoteChain:
        raise RequestError("bank", "a server's instances are changed on the server: docs/serving.md")


class TritonChain(RemoteChain):
    """It over connections of its own. Safe to use from several threads."""

    def __init__(self, url: str, options: ConnectionOptions | None = None) -> None:
        self._exchange = Exchange(url, options or ConnectionOptions(), asynchronous=False)
        # an HTTP client belongs to the thread that made it
        self._held: Any = (
            threading.local() if self._exchange.address.protocol == "http" else SimpleNamespace()
        )
        self._lines: weakref.WeakSet[Line] = weakref.WeakSet()
        self._lock = threading.Lock()  # of the lines' counts
        self._carry(self._exchange.open())

    def ask(self, call: Call) -> Arrays:
        """The answer to one request, whatever the model."""
        return self._carry(self._exchange.ask(call))

    def close(self) -> None:
        self._carry(self._exchange.close())
        for line in list(self._lines):
            line.client.close()

    def _hold(self, conversation: Conversation[T]) -> T:
        return self._carry(self._exchange.hold(conversation))

    def _carry(self, steps: Steps[T]) -> T:
        """Carry steps out, one after the other."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._perform(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _perform(self, step: Step | Pause) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        limit = seconds_until(step.deadline)
        if self._exchange.address.protocol == "grpc":
            return self._call(step, {"client_timeout": limit})
        under_way = _http_threads(os.getpid()).submit(self._call, step, {})
        try:
            return under_way.result(limit)
        finally:
            under_way.cancel()  # if it has not even begun

    def _call(self, step: Step, limit: Mapping[str, float]) -> Any:
        with self._lock:
            line = self._line()
            client = line.begin()
        failure: BaseException | None = None
        try:
            return getattr(client, step.method)(*step.arguments, **step.options, **limit)
        except BaseException as error:
            failure = error
            raise
        finally:
            with self._lock:
                line.end(failure)
                is_done = line.is_done
            if is_done:
                client.close()

    def _line(self) -> Line:
        """The line to ask over: the one held, or a new one."""
        line: Line | None = getattr(self._held, "line", None)
        if line is not None and line.is_trusted:
            return line
        if line is not None and line.is_done:
            line.client.close()
        exchange = self._exchange
        line = Line(open_client(exchange.library, exchange.address, exchange.options, asynchronous=False))
        self._lines.add(line)
        self._held.line = line
        return line


class AsyncTriton:
    """A server's conversations under asyncio; `open` it, since a constructor cannot wait."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._held: Line | None = None
        self._lines: set[Line] = set()  # not closed yet

    @classmethod
    async def open(cls, url: str, options: ConnectionOptions | None = None) -> AsyncTriton:
        """Connect and learn what is served."""
        server = cls(Exchange(url, options or ConnectionOptions(), asynchronous=True))
        try:
            await server._carry(server._exchange.open())
        except BaseException:
            await server._close_lines(server._lines)
            raise
        return server

    def beside(self, loop: asyncio.AbstractEventLoop) -> LoopChain:
        """This server for a thread beside `loop`."""
        return LoopChain(self, loop)

    @property
    def service(self) -> ServedModel:
        """What is served."""
        return self._exchange.service

    @property
    def route(self) -> Route:
        """What is known of the server."""
        return self._exchange.route

    async def hold(self, conversation: Conversation[T]) -> T:
        """Carry a conversation to its end."""
        return await self._carry(self._exchange.hold(conversation))

    async def close(self) -> None:
        """Close the connection."""
        await self._carry(self._exchange.close())
        await self._close_lines(self._lines)

    async def _carry(self, steps: Steps[T]) -> T:
        """As TritonChain._carry."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._perform(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _perform(self, step: Step | Pause) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        line = await self._line()
        client = line.begin()
        failure: BaseException | None = None
        try:
            call = getattr(client, step.method)(*step.arguments, **step.options)
            return await asyncio.wait_for(call, seconds_until(step.deadline))
        except BaseException as error:
            failure = error
            raise
        finally:
            line.end(failure)
            if line.is_done:
                await self._close_lines({line})

    async def _line(self) -> Line:
        """As TritonChain._line."""
        line = self._held
        if line is not None and line.is_trusted:
            return line
        exchange = self._exchange
        self._held = Line(
            open_client(exchange.library, exchange.address, exchange.options, asynchronous=True)
        )
        self._lines.add(self._held)
        if line is not None and line.is_done:
            await self._close_lines({line})
        return self._held

    async def _close_lines(self, lines: set[Line]) -> None:
        for line in list(lines):
            self._lines.discard(line)
            await line.client.close()


class LoopChain(RemoteChain):
    """It for one thread beside an event loop, which does the asking. CancelledError once it is closed."""

    def __init__(self, server: AsyncTriton, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._exchange, self._loop = server, server._exchange, loop
        self._under_way: Future[Any] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def _hold(self, conversation: Conversation[T]) -> T:
        with self._lock:
            if self._closed:
                raise CancelledError
            future = asyncio.run_coroutine_threadsafe(self._server.hold(conversation), self._loop)
            self._under_way = future
        return future.result()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._under_way is not None:
                self._under_way.cancel()


@functools.cache
def _http_threads(process: int) -> ThreadPoolExecutor:
    """Threads that HTTP clients live in, of this process: a fork takes none along.

    Not the callers' own: a client works in one thread only, and leaves files open when that has ended.
    """
    return ThreadPoolExecutor(HTTP_THREADS, thread_name_prefix=f"icgan http {process}")
