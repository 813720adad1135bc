"""What the client needs of tritonclient; the only file of the runtime that imports it."""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from icgan_runtime.client.connection import Address, ConnectionOptions
from icgan_runtime.client.protocol import Arrays, Call, error_of
from icgan_runtime.client.regions import Region, region_name
from icgan_runtime.errors import (
    DeadlineError,
    IcganError,
    MissingExtraError,
    RequestError,
    ServiceError,
    UnavailableError,
)

_TRANSPORTS = ("aiohttp", "geventhttpclient")
# How tritonclient begins what it says of an HTTP answer that no Triton wrote.
_FOREIGN = "an exception occurred in the client while decoding the response"
# What reads JSON for it: where it trips, an answer of status 200 is no server's of ours.
_READERS = ("rapidjson", "json")
# And how gRPC says it.
_FOREIGN_GRPC = re.compile(r"Received http2 header with (?::)?status: (\d+)")
# The libraries' complaints of an answer that is no HTTP.
_NOT_HTTP = {"HTTPParseError", "ClientResponseError"}
# gRPC's of a port where something else listens, or nothing any longer.
_CLOSED = re.compile(r"Socket closed|Failed parsing HTTP/2|http1\.x server")
# Pings show a connection to be alive. A Triton takes one in five minutes, and ends the connection after more.
_PING_MS = 310_000


def load_library(protocol: str, asynchronous: bool) -> Any:
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


def open_client(library: Any, address: Address, wanted: ConnectionOptions, *, asynchronous: bool) -> Any:
    """A client with a connection of its own, not dialled yet."""
    if address.protocol == "grpc":
        return library.InferenceServerClient(
            address.host,
            ssl=address.encrypted,
            root_certificates=wanted.ca,
            certificate_chain=wanted.certificate,
            private_key=wanted.key,
            channel_args=_channel(address, wanted),
        )
    options: dict[str, Any] = {}
    if asynchronous:
        # the library would give up after a minute, whatever is allowed here
        options["conn_timeout"] = wanted.timeout_s
        if address.encrypted and (wanted.ca or wanted.certificate):
            options["ssl_context"] = ssl.create_default_context(cafile=wanted.ca)
            if wanted.certificate:
                options["ssl_context"].load_cert_chain(wanted.certificate, wanted.key)
    else:
        options |= {"network_timeout": wanted.timeout_s, "connection_timeout": wanted.timeout_s}
        files = {"ca_certs": wanted.ca, "certfile": wanted.certificate, "keyfile": wanted.key}
        options["ssl_options"] = {name: str(path) for name, path in files.items() if path}
    return library.InferenceServerClient(address.host, ssl=address.encrypted, **options)


def _channel(address: Address, wanted: ConnectionOptions) -> list[tuple[str, object]]:
    """Settings of a gRPC channel. The library's own are left out once any is given, so all stand here."""
    return [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # else a new channel would be given the old one's connection, dead or alive
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0 if address.is_loopback else 1),
        ("grpc.lb_policy_name", wanted.balancing),
    ]


def infer_options(
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
    return {
        "model_name": call.model,
        "model_version": call.version,
        "inputs": inputs,
        "outputs": outputs,
        "timeout": int(timeout_s * 1e6),
    }


def read_arrays(result: Any, call: Call, regions: Mapping[str, Region]) -> Arrays:
    answer = result.get_response()
    if (
        not regions
        and not isinstance(answer, dict)
        and len(answer.raw_output_contents) == len(answer.outputs)
    ):
        # gRPC: the library would look for each tensor among all of them, and unpack text in many small steps
        found = {
            output.name: _unpacked(output.datatype, tuple(output.shape), data)
            for output, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }
        return {name: found[name] for name in call.outputs}
    return {
        name: _read(result.get_output(name), regions[name]) if name in regions else result.as_numpy(name)
        for name in call.outputs
    }


def _unpacked(datatype: str, shape: tuple[int, ...], data: bytes) -> NDArray[Any]:
    """A tensor from its bytes as they travel."""
    if datatype != "BYTES":
        return np.frombuffer(data, triton_to_np_dtype(datatype)).reshape(shape)
    texts, at = [], 0
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        texts.append(data[start:at])
    found = np.empty(len(texts), np.object_)
    found[:] = texts
    return found.reshape(shape)


def _read(described: Any, region: Region) -> NDArray[Any]:
    """The tensor that an answer describes, out of the region it was written to."""
    if not isinstance(described, dict):  # gRPC
        described = {"datatype": described.datatype, "shape": described.shape}
    dtype = np.dtype(triton_to_np_dtype(described["datatype"]))
    return region.read(dtype.str, tuple(described["shape"]))


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


def ends_trust(error: BaseException) -> bool:
    """Whether nothing more is to be asked over the connection of a call that raised this.

    A missed deadline, or anything the transport says: the connection may be dead. What the server answers,
    and a caller that gave up, say nothing of it.
    """
    if isinstance(error, InferenceServerException):
        return str(error.status()) == "StatusCode.DEADLINE_EXCEEDED"
    return isinstance(error, Exception)


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what tritonclient and its transports raise into the exceptions of this package."""
    try:
        yield
    except InferenceServerException as error:
        status = str(error.status()).removeprefix("StatusCode.")
        words = str(error.message())
        if words.startswith(_FOREIGN):  # a proxy's page, or JSON of another kind
            raise _foreign(url, status, str(error.debug_details() or "")) from None
        if found := _FOREIGN_GRPC.search(words):
            raise _foreign(url, found[1]) from None
        if status == "UNAVAILABLE" and _CLOSED.search(words):
            words = f"{url}: nothing there speaks gRPC; a server's port for HTTP is another ({words})"
        # gRPC says numbers, and not whose
        if status in ("UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED") and url not in words:
            words = f"{url}: {words}"
        raise error_of(status, words) from None
    except TimeoutError as error:
        raise DeadlineError(f"{url}: no answer in time") from error
    except Exception as error:
        origin = type(error).__module__.partition(".")[0]
        said = " ".join(str(error).split())[:200] or type(error).__name__
        if type(error).__name__ in _NOT_HTTP:
            words = "what answers there is no HTTP; a server's port for gRPC is another"
            raise UnavailableError(f"{url}: {words} ({said})") from None
        # refused, reset, no such host, no HTTP; the HTTP libraries also have classes of their own for this
        if isinstance(error, OSError | http.client.HTTPException) or origin in _TRANSPORTS:
            raise UnavailableError(f"{url}: {said}") from None
        if origin in _READERS:  # a page for logging in, a port for metrics
            raise ServiceError(
                f"{url}: what answers there does not speak as a Triton server ({said})"
            ) from None
        raise


def _foreign(url: str, status: str, body: str = "") -> IcganError:
    """What a proxy or gateway answered in the server's place; of its page, the words on one line."""
    said = " ".join(re.sub(r"(?is)<(style|script|head)\b.*?</\1>|<[^>]*>", " ", body).split())[:120]
    advice = {
        "401": "; give credentials (headers=, ICGAN_HEADERS)",
        "403": "; give credentials (headers=, ICGAN_HEADERS)",
        "413": "; the request is larger than is allowed on the way",
    }
    words = f"{url}: status {status} from what stands before the server{advice.get(status, '')}"
    words += f" ({said})" if said else ""
    return ServiceError(words) if status == "400" else error_of(status, words)  # 400: no field of ours
