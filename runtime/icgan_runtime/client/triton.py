"""Clients of a Triton server, blocking and asyncio, by gRPC and HTTP: both do what exchange.py says."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.client.exchange import Exchange, Pause, Step, Steps, seconds_until
from icgan_runtime.client.protocol import Arrays, Call, Conversation, ServedModel
from icgan_runtime.errors import (
    RequestError,
)
from icgan_runtime.request import Request, Result
from icgan_runtime.route import Route

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
T = TypeVar("T")

HTTP_THREADS = 64  # requests that blocking HTTP clients have under way at most; more wait their turn


class TritonChain:
    """The chain of a Pipeline, on a server. Safe to use from several threads."""

    def __init__(self, url: str, timeout_s: float, retries: int, shared_memory: str | None = None) -> None:
        self._exchange = Exchange(url, timeout_s, retries, shared_memory, asynchronous=False)
        self._timeout_s = timeout_s
        # an HTTP client belongs to the thread that made it
        self._held: Any = (
            threading.local() if self._exchange.address.protocol == "http" else SimpleNamespace()
        )
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        self._carry(self._exchange.open())

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

    def embed(self, pictures: Sequence[images.Picture]) -> F32:
        return self._hold(self._exchange.service.embed(pictures))

    def search(self, embedding: F32, k: int) -> tuple[I64, F32]:
        return self._hold(self._exchange.service.search(embedding, k))

    def generate(self, picture: images.Picture, request: Request) -> Result:
        return self._hold(self._exchange.service.generate(picture, request))

    def generate_from(self, embedding: F32, request: Request) -> Result:
        return self._hold(self._exchange.service.generate_from(embedding, request))

    def with_bank(self, bank: Bank) -> TritonChain:
        raise RequestError("bank", "a server's instances are changed on the server: docs/serving.md")

    def ask(self, call: Call) -> Arrays:
        """The answer to one request, whatever the model."""
        return self._carry(self._exchange.ask(call))

    def close(self) -> None:
        self._carry(self._exchange.close())
        for client in list(self._clients):
            client.close()

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
        return getattr(self._client(), step.method)(*step.arguments, **step.options, **limit)

    def _client(self) -> Any:
        client = getattr(self._held, "client", None)
        if client is None:
            address, options = self._exchange.address, {}
            if address.protocol == "http":
                options = {"network_timeout": self._timeout_s, "connection_timeout": self._timeout_s}
            client = self._exchange.library.InferenceServerClient(
                address.host, ssl=address.encrypted, **options
            )
            self._clients.add(client)
            self._held.client = client
        return client


class AsyncTriton:
    """A server's conversations under asyncio; `open` it, since a constructor cannot wait."""

    def __init__(self, exchange: Exchange, client: Any) -> None:
        self._exchange, self._client = exchange, client

    @classmethod
    async def open(
        cls, url: str, timeout_s: float, retries: int, shared_memory: str | None = None
    ) -> AsyncTriton:
        """Connect and learn what is served."""
        exchange = Exchange(url, timeout_s, retries, shared_memory, asynchronous=True)
        address = exchange.address
        # over HTTP the library would give up after a minute, whatever is allowed here
        options = {"conn_timeout": timeout_s} if address.protocol == "http" else {}
        client = exchange.library.InferenceServerClient(address.host, ssl=address.encrypted, **options)
        server = cls(exchange, client)
        try:
            await server._carry(exchange.open())
        except BaseException:
            await client.close()
            raise
        return server

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
        await self._client.close()

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
        call = getattr(self._client, step.method)(*step.arguments, **step.options)
        return await asyncio.wait_for(call, seconds_until(step.deadline))


@functools.cache
def _http_threads(process: int) -> ThreadPoolExecutor:
    """Threads that HTTP clients live in, of this process: a fork takes none along.

    Not the callers' own: a client works in one thread only, and leaves files open when that has ended.
    """
    return ThreadPoolExecutor(HTTP_THREADS, thread_name_prefix=f"icgan http {process}")
