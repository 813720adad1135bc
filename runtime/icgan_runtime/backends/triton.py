"""Clients of a Triton server, blocking and asyncio, over gRPC and HTTP; all that imports tritonclient.

A call is tried again only when the server was unreachable or shed it: then nothing was computed. Everything
else fails at once with the server's own words.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from icgan_runtime import images
from icgan_runtime.bank import Bank
from icgan_runtime.errors import (
    DeadlineError,
    MissingExtraError,
    RequestError,
    UnavailableError,
)
from icgan_runtime.manifest import Model
from icgan_runtime.remote import ENSEMBLE, Arrays, Call, Conversation, Service, back_off, error_of
from icgan_runtime.request import Request, Result

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
T = TypeVar("T")

SCHEMES = ("grpc", "grpcs", "http", "https")
_TRANSPORTS = ("aiohttp", "geventhttpclient")


@dataclass(frozen=True)
class Address:
    """Where and how a server is reached."""

    url: str
    protocol: str  # "grpc" or "http"
    host: str  # with port
    encrypted: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """From `grpc://host:port`, `http://host:port`, or their encrypted forms. Raises RequestError."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise RequestError("url", f"{url!r}, expected {', '.join(SCHEMES)} ://host:port")
        encrypted = parts.scheme in ("grpcs", "https")
        return cls(url, parts.scheme[:4], parts.netloc + parts.path.rstrip("/"), encrypted)


class TritonChain:
    """The chain of a Pipeline, on a server. Safe to use from several threads."""

    def __init__(self, url: str, timeout_s: float, retries: int) -> None:
        self._address = Address.parse(url)
        self._timeout_s, self._retries = timeout_s, retries
        self._clients: dict[
            int, Any
        ] = {}  # one per thread: the HTTP client belongs to the thread that made it
        self._library = _library(self._address.protocol)
        self._service = Service.of_config(url, self._config())

    @property
    def model(self) -> Model:
        return self._service.model

    @property
    def bank(self) -> Bank | None:
        return None

    @property
    def neighbours(self) -> int:
        return self._service.neighbours

    def embed(self, pictures: Sequence[images.Picture]) -> F32:
        return self._hold(self._service.embed(pictures))

    def search(self, embedding: F32, k: int) -> tuple[I64, F32]:
        return self._hold(self._service.search(embedding, k))

    def generate(self, picture: images.Picture, request: Request) -> Result:
        return self._hold(self._service.generate(picture, request))

    def generate_from(self, embedding: F32, request: Request) -> Result:
        return self._hold(self._service.generate_from(embedding, request))

    def with_bank(self, bank: Bank) -> TritonChain:
        raise RequestError("bank", "a server's instances are changed on the server: docs/serving.md")

    def close(self) -> None:
        while self._clients:
            self._clients.popitem()[1].close()

    def _hold(self, conversation: Conversation[T]) -> T:
        try:
            call = next(conversation)
            while True:
                call = conversation.send(self.ask(call))
        except StopIteration as done:
            result: T = done.value
            return result

    def ask(self, call: Call) -> Arrays:
        """The answer to one request, whatever the model."""

        def attempt(timeout_s: float) -> Arrays:
            options = _infer_options(self._library, call, timeout_s)
            if self._address.protocol == "grpc":
                options["client_timeout"] = timeout_s
            return _arrays(self._client().infer(**options), call)

        return self._persist(attempt)

    def _config(self) -> dict[str, Any]:
        def attempt(timeout_s: float) -> dict[str, Any]:
            options: dict[str, Any] = {}
            if self._address.protocol == "grpc":
                options = {"as_json": True, "client_timeout": timeout_s}
            config: dict[str, Any] = self._client().get_model_config(ENSEMBLE, **options)
            return config

        config = self._persist(attempt)
        inner: dict[str, Any] = config.get("config", config)  # gRPC wraps it
        return inner

    def _persist(self, attempt: Callable[[float], T]) -> T:
        """`attempt(seconds left)`, again after a pause while the server is unavailable and time is left."""
        deadline = time.monotonic() + self._timeout_s
        pauses = back_off(self._retries)
        while True:
            try:
                with _translated(self._address.url):
                    return attempt(max(deadline - time.monotonic(), 0.001))
            except UnavailableError:
                pause = next(pauses, None)
                if pause is None or time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)

    def _client(self) -> Any:
        key = threading.get_ident() if self._address.protocol == "http" else 0
        if key not in self._clients:
            options: dict[str, Any] = {}
            if self._address.protocol == "http":
                options = {"network_timeout": self._timeout_s, "connection_timeout": self._timeout_s}
            self._clients[key] = self._library.InferenceServerClient(
                self._address.host, ssl=self._address.encrypted, **options
            )
        return self._clients[key]


class AsyncTriton:
    """A server's conversations under asyncio; `open` it, since a constructor cannot wait."""

    def __init__(self, client: Any, library: Any, service: Service, timeout_s: float, retries: int) -> None:
        self.service = service
        self._client, self._library = client, library
        self._timeout_s, self._retries = timeout_s, retries

    @classmethod
    async def open(cls, url: str, timeout_s: float, retries: int) -> AsyncTriton:
        """Connect and learn what is served."""
        address = Address.parse(url)
        library = _library(address.protocol, asynchronous=True)
        client = library.InferenceServerClient(address.host, ssl=address.encrypted)
        options = {"as_json": True} if address.protocol == "grpc" else {}

        async def attempt(_: float) -> Any:
            return await client.get_model_config(ENSEMBLE, **options)

        try:
            config = await _persist(attempt, url, timeout_s, retries)
        except BaseException:
            await client.close()
            raise
        service = Service.of_config(url, config.get("config", config))
        return cls(client, library, service, timeout_s, retries)

    async def hold(self, conversation: Conversation[T]) -> T:
        """Carry a conversation to its end."""
        try:
            call = next(conversation)
            while True:
                call = conversation.send(await self._ask(call))
        except StopIteration as done:
            result: T = done.value
            return result

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def _ask(self, call: Call) -> Arrays:
        async def attempt(timeout_s: float) -> Arrays:
            return _arrays(await self._client.infer(**_infer_options(self._library, call, timeout_s)), call)

        return await _persist(attempt, self.service.url, self._timeout_s, self._retries)


async def _persist(attempt: Callable[[float], Awaitable[T]], url: str, timeout_s: float, retries: int) -> T:
    """As TritonChain._persist."""
    deadline = time.monotonic() + timeout_s
    pauses = back_off(retries)
    while True:
        left = max(deadline - time.monotonic(), 0.001)
        try:
            with _translated(url):
                return await asyncio.wait_for(attempt(left), left)
        except UnavailableError:
            pause = next(pauses, None)
            if pause is None or time.monotonic() + pause > deadline:
                raise
            await asyncio.sleep(pause)


def _library(protocol: str, asynchronous: bool = False) -> Any:
    """The module of tritonclient for a protocol: each needs libraries of its own."""
    try:
        if protocol == "grpc":
            if asynchronous:
                import tritonclient.grpc.aio as library
            else:
                import tritonclient.grpc as library
        elif asynchronous:
            import tritonclient.http.aio as library
        else:
            import tritonclient.http as library
    except ImportError:
        raise MissingExtraError(f"tritonclient[{protocol}]", "triton") from None
    return library


def _infer_options(library: Any, call: Call, timeout_s: float) -> dict[str, Any]:
    """Arguments of `infer`. The server too learns the time limit, and drops what has waited longer."""
    inputs = []
    for name, array in call.inputs.items():
        tensor = library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(np.ascontiguousarray(array))
        inputs.append(tensor)
    outputs = [library.InferRequestedOutput(name) for name in call.outputs]
    return {"model_name": call.model, "inputs": inputs, "outputs": outputs, "timeout": int(timeout_s * 1e6)}


def _arrays(result: Any, call: Call) -> Arrays:
    return {name: result.as_numpy(name) for name in call.outputs}


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn what tritonclient and its transports raise into the exceptions of this package."""
    try:
        yield
    except InferenceServerException as error:
        status = str(error.status()).removeprefix("StatusCode.")
        raise error_of(status, str(error.message())) from None
    except TimeoutError as error:
        raise DeadlineError(f"{url}: no answer in time") from error
    except Exception as error:
        # refused, reset, no such host; the HTTP libraries also have classes of their own for this
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _TRANSPORTS:
            raise UnavailableError(f"{url}: {error or type(error).__name__}") from None
        raise
