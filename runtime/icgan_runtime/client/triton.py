"""Clients of a Triton server, blocking and asyncio, over gRPC and HTTP; all that imports tritonclient.

A call is tried again only when the server was unreachable or shed it: then nothing was computed. Everything
else fails at once with the server's own words. With shared memory the pictures of a request pass through
regions (backends/regions.py), everything else through the socket as usual.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from icgan_runtime import images
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import Model
from icgan_runtime.client.protocol import ENSEMBLE, Arrays, Call, Conversation, Service, back_off, error_of
from icgan_runtime.client.regions import Pool, Region, SystemRegion, region_name
from icgan_runtime.errors import (
    DeadlineError,
    IcganError,
    MissingExtraError,
    RequestError,
    UnavailableError,
)
from icgan_runtime.request import Request, Result

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
T = TypeVar("T")

SCHEMES = ("grpc", "grpcs", "http", "https")
SHARED = ("system", "cuda")
HTTP_THREADS = 64  # requests that blocking HTTP clients have under way at most; more wait their turn
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
        try:
            parts = urlsplit(url)
            sound = parts.scheme in SCHEMES and parts.hostname and parts.port != 0
        except ValueError:  # half an IPv6 address, or no number from 0 to 65535 for a port
            sound = False
        if not sound:
            schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise RequestError("url", f"{url!r}, expected one of {schemes} and then host:port")
        encrypted = parts.scheme in ("grpcs", "https")
        return cls(url, parts.scheme[:4], parts.netloc + parts.path.rstrip("/"), encrypted)


@dataclass(frozen=True)
class Step:
    """A method of tritonclient's client to call, and the moment (of `time.monotonic`) to give it up."""

    method: str
    arguments: tuple[object, ...]
    options: Mapping[str, object]
    deadline: float


@dataclass(frozen=True)
class Pause:
    """To wait before the next try."""

    seconds: float


Steps = Generator[Step | Pause, Any, T]  # is sent what each step gave, or thrown what it raised


class Exchange:
    """What is done over one connection, step by step; the clients below carry the steps out."""

    def __init__(
        self, url: str, timeout_s: float, retries: int, shared_memory: str | None, *, asynchronous: bool
    ) -> None:
        self.address = Address.parse(url)
        self._timeout_s, self._retries = timeout_s, retries
        self._kind = _check_shared(shared_memory)
        self.library = _library(self.address.protocol, asynchronous)
        self.pool: Pool | None = None
        self.service: Service  # known once it is open

    def open(self) -> Steps[None]:
        """Learn what is served; with shared memory, register a region: a server that refuses says so here."""
        config = yield from self._persist(self._config)
        self.service = Service.of_config(self.address.url, config.get("config", config))  # gRPC wraps it
        self.pool = _pool(self._kind, self.service)
        if self.pool is not None:
            self.pool.give((yield from self._persist(self._registered)))

    def hold(self, conversation: Conversation[T]) -> Steps[T]:
        """Carry a conversation to its end."""
        try:
            call = next(conversation)
            while True:
                call = conversation.send((yield from self.ask(call)))
        except StopIteration as done:
            result: T = done.value
            return result

    def ask(self, call: Call) -> Steps[Arrays]:
        """The answer to one request, whatever the model."""
        return (yield from self._persist(lambda deadline: self._infer(call, deadline)))

    def close(self) -> Steps[None]:
        """Give back what the server holds for this connection."""
        if self.pool is None:
            return
        with contextlib.ExitStack() as unregistered:
            regions = self.pool.close()
            for region in regions:
                unregistered.callback(region.close)
            for region in regions:
                with contextlib.suppress(IcganError):  # gone, or no longer ours to tidy
                    yield from self._tell("unregister", (region.name,), time.monotonic() + self._timeout_s)

    def _config(self, deadline: float) -> Steps[dict[str, Any]]:
        options = {"as_json": True} if self.address.protocol == "grpc" else {}
        config: dict[str, Any] = yield Step("get_model_config", (ENSEMBLE,), options, deadline)
        return config

    def _infer(self, call: Call, deadline: float) -> Steps[Arrays]:
        """One try, with a region for each picture tensor."""
        regions: dict[str, Region] = {}
        try:
            if self.pool is not None:
                for name in _large(call):
                    regions[name] = self.pool.take() or (yield from self._registered(deadline))
            options = _infer_options(self.library, call, _seconds_until(deadline), regions)
            arrays = _arrays((yield Step("infer", (), options, deadline)), call, regions)
        except BaseException:  # cancelled too; no step follows, for the caller's time is over
            if self.pool is not None:
                self.pool.lose(*regions.values())
            raise
        if self.pool is not None:
            for region in regions.values():
                self.pool.give(region)
        return arrays

    def _registered(self, deadline: float) -> Steps[Region]:
        """A new region that the server knows; it forgets lost ones on this occasion."""
        assert self.pool is not None
        lost, kept = self.pool.lost(), []
        try:
            while lost:
                try:
                    yield from self._tell("unregister", (lost[0].name,), deadline)
                except IcganError:
                    kept.append(lost.pop(0))
                else:
                    lost.pop(0).close()
        finally:
            self.pool.lose(*kept, *lost)
        region = self.pool.new()
        try:
            yield from self._tell("register", region.registration, deadline)
        except BaseException:
            region.close()
            raise
        return region

    def _tell(self, verb: str, arguments: tuple[object, ...], deadline: float) -> Steps[None]:
        """Register or unregister a region."""
        with _translated(self.address.url):
            yield Step(f"{verb}_{self._kind}_shared_memory", arguments, {}, deadline)

    def _persist(self, attempt: Callable[[float], Steps[T]]) -> Steps[T]:
        """`attempt(deadline)`, again after a pause while the server is unavailable and time is left."""
        deadline = time.monotonic() + self._timeout_s
        pauses = back_off(self._retries)
        while True:
            try:
                with _translated(self.address.url):
                    return (yield from attempt(deadline))
            except UnavailableError:
                pause = next(pauses, None)
                if pause is None or time.monotonic() + pause > deadline:
                    raise
                yield Pause(pause)


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
        limit = _seconds_until(step.deadline)
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
    def service(self) -> Service:
        """What is served."""
        return self._exchange.service

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
        return await asyncio.wait_for(call, _seconds_until(step.deadline))


@functools.cache
def _http_threads(process: int) -> ThreadPoolExecutor:
    """Threads that HTTP clients live in, of this process: a fork takes none along.

    Not the callers' own: a client works in one thread only, and leaves files open when that has ended.
    """
    return ThreadPoolExecutor(HTTP_THREADS, thread_name_prefix=f"icgan http {process}")


def _seconds_until(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _library(protocol: str, asynchronous: bool) -> Any:
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


def _infer_options(
    library: Any, call: Call, timeout_s: float, regions: Mapping[str, Region]
) -> dict[str, Any]:
    """Arguments of `infer`. The server too learns the time limit, and drops what has waited longer."""
    inputs, outputs = [], []
    for name, array in call.inputs.items():
        tensor = library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        array = np.ascontiguousarray(array)
        if name in regions:
            regions[name].write(array)
            tensor.set_shared_memory(regions[name].name, array.nbytes)
        else:
            tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    for name in call.outputs:
        output = library.InferRequestedOutput(name)
        if name in regions:
            output.set_shared_memory(regions[name].name, regions[name].size)
        outputs.append(output)
    return {"model_name": call.model, "inputs": inputs, "outputs": outputs, "timeout": int(timeout_s * 1e6)}


def _arrays(result: Any, call: Call, regions: Mapping[str, Region]) -> Arrays:
    return {
        name: _read(result.get_output(name), regions[name]) if name in regions else result.as_numpy(name)
        for name in call.outputs
    }


def _read(described: Any, region: Region) -> NDArray[Any]:
    """The tensor that an answer describes, out of the region it was written to."""
    if not isinstance(described, dict):  # gRPC
        described = {"datatype": described.datatype, "shape": described.shape}
    dtype = np.dtype(triton_to_np_dtype(described["datatype"]))
    return region.read(dtype.str, tuple(described["shape"]))


def _large(call: Call) -> list[str]:
    """The tensors of a call that are pictures; the others are a few kB."""
    return [name for name in (*call.inputs, *call.outputs) if name in ("PIXELS", "GENERATED")]


def _check_shared(shared_memory: str | None) -> str | None:
    if shared_memory not in (None, *SHARED):
        raise RequestError("shared_memory", f"{shared_memory!r}, expected None, {' or '.join(SHARED)}")
    return shared_memory


def _pool(kind: str | None, service: Service) -> Pool | None:
    """Regions that hold the pictures of a full batch, on either side of the chain."""
    if kind is None:
        return None
    side = max(service.model.resolution, service.model.preprocessing.size)
    return Pool(SystemRegion if kind == "system" else CudaRegion, service.max_batch * side * side * 3)


class CudaRegion:
    """Memory of the first GPU: the server writes there, the client copies it to its own memory."""

    def __init__(self, size: int, device: int = 0) -> None:
        try:
            from tritonclient.utils import cuda_shared_memory
        except (ImportError, RuntimeError):  # which it is depends on the version of tritonclient
            raise RequestError("shared_memory", "'cuda' needs pip install 'tritonclient[cuda]'") from None
        self._library, self._device, self.size = cuda_shared_memory, device, size
        self.name = region_name()
        try:
            self._handle = cuda_shared_memory.create_shared_memory_region(self.name, size, device)
        except cuda_shared_memory.CudaSharedMemoryException as error:
            raise RequestError("shared_memory", f"'cuda', but {error}") from None

    @property
    def registration(self) -> tuple[object, ...]:
        return self.name, self._library.get_raw_handle(self._handle), self._device, self.size

    def write(self, array: NDArray[Any]) -> None:
        self._library.set_shared_memory_region(self._handle, [array])

    def read(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        array: NDArray[Any] = self._library.get_contents_as_numpy(self._handle, np.dtype(dtype), shape)
        return array.copy()

    def close(self) -> None:
        self._library.destroy_shared_memory_region(self._handle)


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn what tritonclient and its transports raise into the exceptions of this package."""
    try:
        yield
    except InferenceServerException as error:
        status = str(error.status()).removeprefix("StatusCode.")
        words = str(error.message())
        if status == "UNAVAILABLE" and url not in words:  # gRPC says numbers, and not whose
            words = f"{url}: {words}"
        raise error_of(status, words) from None
    except TimeoutError as error:
        raise DeadlineError(f"{url}: no answer in time") from error
    except Exception as error:
        # refused, reset, no such host; the HTTP libraries also have classes of their own for this
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _TRANSPORTS:
            raise UnavailableError(f"{url}: {error or type(error).__name__}") from None
        raise
