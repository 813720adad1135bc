"""Clients of a Triton server, blocking and asyncio, over gRPC and HTTP; all that imports tritonclient.

A call is tried again only when the server was unreachable or shed it: then nothing was computed. Everything
else fails at once with the server's own words. With shared memory the pictures of a request pass through
regions (backends/regions.py), everything else through the socket as usual.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from icgan_runtime import images
from icgan_runtime.backends.regions import Pool, Region, SystemRegion
from icgan_runtime.bank import Bank
from icgan_runtime.errors import (
    DeadlineError,
    IcganError,
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
SHARED = ("system", "cuda")
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

    def __init__(self, url: str, timeout_s: float, retries: int, shared_memory: str | None = None) -> None:
        self._address = Address.parse(url)
        self._timeout_s, self._retries = timeout_s, retries
        self._kind = _check_shared(shared_memory)
        self._clients: dict[
            int, Any
        ] = {}  # one per thread: the HTTP client belongs to the thread that made it
        self._library = _library(self._address.protocol)
        self._service = Service.of_config(url, self._config())
        self._pool = _pool(self._kind, self._service)
        if self._pool is not None:
            pool = self._pool
            pool.give(self._persist(lambda _: self._registered(pool)))  # a server that refuses says so here

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
        if self._pool is not None:
            for name in self._pool.close():
                with contextlib.suppress(IcganError):  # gone, or no longer ours to tidy
                    self._tell("unregister", name)
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
            with self._lent(call) as regions:
                options = _infer_options(self._library, call, timeout_s, regions)
                if self._address.protocol == "grpc":
                    options["client_timeout"] = timeout_s
                return _arrays(self._client().infer(**options), call, regions)

        return self._persist(attempt)

    @contextlib.contextmanager
    def _lent(self, call: Call) -> Iterator[dict[str, Region]]:
        """A region for each picture tensor of a call."""
        regions: dict[str, Region] = {}
        if self._pool is None:
            yield regions
            return
        try:
            for name in _large(call):
                regions[name] = self._pool.take() or self._registered(self._pool)
            yield regions
        except BaseException:
            self._pool.lose(*regions.values())
            raise
        for region in regions.values():
            self._pool.give(region)

    def _registered(self, pool: Pool) -> Region:
        """A new region that the server knows; it forgets lost ones on this occasion."""
        for name in pool.lost():
            try:
                self._tell("unregister", name)
            except IcganError:
                pool.still_lost(name)
        region = pool.new()
        try:
            self._tell("register", *region.registration)
        except BaseException:
            region.close()
            raise
        return region

    def _tell(self, verb: str, *arguments: object) -> None:
        """Register or unregister a region."""
        options = {"client_timeout": self._timeout_s} if self._address.protocol == "grpc" else {}
        with _translated(self._address.url):
            getattr(self._client(), f"{verb}_{self._kind}_shared_memory")(*arguments, **options)

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

    def __init__(
        self, client: Any, library: Any, service: Service, timeout_s: float, retries: int, kind: str | None
    ) -> None:
        self.service = service
        self._client, self._library = client, library
        self._timeout_s, self._retries = timeout_s, retries
        self._kind, self._pool = kind, _pool(kind, service)

    @classmethod
    async def open(
        cls, url: str, timeout_s: float, retries: int, shared_memory: str | None = None
    ) -> AsyncTriton:
        """Connect and learn what is served."""
        address = Address.parse(url)
        kind = _check_shared(shared_memory)
        library = _library(address.protocol, asynchronous=True)
        client = library.InferenceServerClient(address.host, ssl=address.encrypted)
        options = {"as_json": True} if address.protocol == "grpc" else {}

        async def attempt(_: float) -> Any:
            return await client.get_model_config(ENSEMBLE, **options)

        try:
            config = await _persist(attempt, url, timeout_s, retries)
            service = Service.of_config(url, config.get("config", config))
            server = cls(client, library, service, timeout_s, retries, kind)
            if server._pool is not None:
                pool = server._pool
                pool.give(await _persist(lambda _: server._registered(pool), url, timeout_s, retries))
        except BaseException:
            await client.close()
            raise
        return server

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
        if self._pool is not None:
            for name in self._pool.close():
                with contextlib.suppress(IcganError):
                    await self._tell("unregister", name)
        await self._client.close()

    async def _ask(self, call: Call) -> Arrays:
        async def attempt(timeout_s: float) -> Arrays:
            async with self._lent(call) as regions:
                options = _infer_options(self._library, call, timeout_s, regions)
                return _arrays(await self._client.infer(**options), call, regions)

        return await _persist(attempt, self.service.url, self._timeout_s, self._retries)

    @contextlib.asynccontextmanager
    async def _lent(self, call: Call) -> AsyncIterator[dict[str, Region]]:
        """As TritonChain._lent."""
        regions: dict[str, Region] = {}
        if self._pool is None:
            yield regions
            return
        try:
            for name in _large(call):
                regions[name] = self._pool.take() or await self._registered(self._pool)
            yield regions
        except BaseException:  # cancelled too; nothing is awaited here, for the caller's time is over
            self._pool.lose(*regions.values())
            raise
        for region in regions.values():
            self._pool.give(region)

    async def _registered(self, pool: Pool) -> Region:
        """As TritonChain._registered."""
        for name in pool.lost():
            try:
                await self._tell("unregister", name)
            except IcganError:
                pool.still_lost(name)
        region = pool.new()
        try:
            await self._tell("register", *region.registration)
        except BaseException:
            region.close()
            raise
        return region

    async def _tell(self, verb: str, *arguments: object) -> None:
        """As TritonChain._tell."""
        with _translated(self.service.url):
            telling = getattr(self._client, f"{verb}_{self._kind}_shared_memory")(*arguments)
            await asyncio.wait_for(telling, self._timeout_s)


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
        self.name = f"icgan-{secrets.token_hex(8)}"
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
        raise error_of(status, str(error.message())) from None
    except TimeoutError as error:
        raise DeadlineError(f"{url}: no answer in time") from error
    except Exception as error:
        # refused, reset, no such host; the HTTP libraries also have classes of their own for this
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _TRANSPORTS:
            raise UnavailableError(f"{url}: {error or type(error).__name__}") from None
        raise
