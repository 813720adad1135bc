"""What is done over one connection to a server, step by step, whoever carries the steps out.

A call is tried again only when the server was unreachable or shed it: then nothing was computed. Everything
else fails at once with the server's own words. With shared memory the pictures of a request pass through
regions (regions.py), everything else through the socket as usual.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from icgan_runtime.client.connection import Address, ConnectionOptions
from icgan_runtime.client.library import CudaRegion, infer_options, load_library, read_arrays, translated
from icgan_runtime.client.protocol import ENSEMBLE, Arrays, Call, Conversation, ServedModel, back_off
from icgan_runtime.client.regions import Pool, Region, SystemRegion
from icgan_runtime.errors import IcganError, RequestError, ServiceError, UnavailableError
from icgan_runtime.route import Route

T = TypeVar("T")

SHARED = ("system", "cuda")


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
    """One connection; the clients of triton.py carry its steps out."""

    def __init__(self, url: str, options: ConnectionOptions, *, asynchronous: bool) -> None:
        self.address = Address.parse(url)
        options.check(self.address)
        self.options = options
        self._headers = options.sent(self.address)
        self._timeout_s = options.timeout_s
        self._kind = _check_shared(options.shared_memory)
        self.library = load_library(self.address.protocol, asynchronous)
        self.pool: Pool | None = None
        self.service: ServedModel  # known once it is open

    def open(self) -> Steps[None]:
        """Learn what is served; with shared memory, register a region: a server that refuses says so here."""
        config = yield from self._persist(self._config)
        config = config.get("config", config)  # gRPC wraps it
        self.service = ServedModel.of_config(self.address.url, config, self.options.prepare)
        self.pool = _pool(self._kind, self.service)
        if self.pool is not None:
            self.pool.give((yield from self._persist(self._registered)))

    @property
    def route(self) -> Route:
        """What is known of the server; what runs its graphs it keeps to itself."""
        names = {"grpc": "gRPC", "http": "HTTP"}
        protocol = names[self.address.protocol] + (f" with {self._kind} shared memory" if self._kind else "")
        unknown = dict.fromkeys(("provider", "precision", "search", "threads"), "the server's choice")
        reasons = {"backend": f"serves {self.service.model.name}", **unknown}
        return Route("triton", None, None, None, None, reasons, self.address.url, protocol)

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
        options: dict[str, Any] = {"headers": self._headers}
        if self.address.protocol == "grpc":
            options["as_json"] = True
        config: object = yield Step("get_model_config", (ENSEMBLE,), options, deadline)
        if not isinstance(config, dict):
            raise ServiceError(f"{self.address.url}: what answers there does not speak as a Triton server")
        return config

    def _infer(self, call: Call, deadline: float) -> Steps[Arrays]:
        """One try, with a region for each picture tensor."""
        regions: dict[str, Region] = {}
        try:
            if self.pool is not None:
                for name in _large(call):
                    regions[name] = self.pool.take() or (yield from self._registered(deadline))
            options = infer_options(self.library, call, seconds_until(deadline), regions)
            options["headers"] = self._headers
            arrays = read_arrays((yield Step("infer", (), options, deadline)), call, regions)
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
        with translated(self.address.url):
            options = {"headers": self._headers}
            yield Step(f"{verb}_{self._kind}_shared_memory", arguments, options, deadline)

    def _persist(self, attempt: Callable[[float], Steps[T]]) -> Steps[T]:
        """`attempt(deadline)`, again after a pause while the server is unavailable and time is left."""
        deadline = time.monotonic() + self._timeout_s
        pauses = back_off(self.options.retries)
        while True:
            try:
                with translated(self.address.url):
                    return (yield from attempt(deadline))
            except UnavailableError:
                pause = next(pauses, None)
                if pause is None or time.monotonic() + pause > deadline:
                    raise
                yield Pause(pause)


def seconds_until(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _large(call: Call) -> list[str]:
    """The tensors of a call that are pictures; the others are a few kB."""
    return [name for name in (*call.inputs, *call.outputs) if name in ("PIXELS", "GENERATED")]


def _check_shared(shared_memory: str | None) -> str | None:
    if shared_memory not in (None, *SHARED):
        raise RequestError("shared_memory", f"{shared_memory!r}, expected None, {' or '.join(SHARED)}")
    return shared_memory


def _pool(kind: str | None, service: ServedModel) -> Pool | None:
    """Regions that hold the pictures of a full batch, on either side of the chain."""
    if kind is None:
        return None
    side = max(service.model.resolution, service.model.preprocessing.size)
    return Pool(SystemRegion if kind == "system" else CudaRegion, service.max_batch * side * side * 3)
