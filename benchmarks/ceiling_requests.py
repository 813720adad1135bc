"""What `benchmarks.ceiling` asks, serialised before the clock runs, and the light clients that send it."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import os
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from tritonclient.grpc._utils import _get_inference_request
from tritonclient.utils import InferenceServerException, shared_memory

from icgan_runtime import images
from icgan_runtime.rows import REPEATS

DIFFERENT = 64  # requests that clients send in turn; no two clients the same at a time
PHOTOS = 8  # that are behind them: the others are as bright or dark as another table of theirs makes them
# width, height: 0.3, 2 and 12 megapixels
SIZES = {"0.3 MP": (640, 480), "2 MP": (1920, 1080), "12 MP": (4032, 3024)}

Inputs = dict[str, np.ndarray]
Ask = tuple[str, Inputs, int]  # ensemble, inputs, bytes of pictures that come back
REFUSED_S = 0.05  # before a client that was sent away asks again
RELEASES, RELEASE_S = 100, 0.05  # tries until a request has let go of shared memory
Send = Callable[[int], Awaitable[bool]]  # whether the server answered; False: it had no room


@dataclass(frozen=True)
class Post:
    """What has to be known of a server to write to it."""

    resolution: int
    width: int
    repeats: bool  # an empty picture stands for the one before

    @classmethod
    def of(cls, http: str, resolution: int, width: int) -> Post:
        """Ask the server."""
        with urllib.request.urlopen(f"{http}/v2/models/icgan/config") as answer:
            return cls(resolution, width, REPEATS in json.load(answer)["parameters"])

    def ask(self, ensemble: str, source: Inputs, rows: int, seed: int) -> Ask:
        """A request of `rows` rows."""
        scalars: Inputs = {
            "SEED": np.full((rows, 1), seed, np.int64),
            "SAMPLE": np.arange(rows)[:, None],
            "TRUNCATION": np.full((rows, 1), 0.7, np.float32),
            "CONDITION": np.zeros((rows, 1), np.int32),
        }
        return ensemble, source | scalars, rows * self.resolution**2 * 3


@dataclass(frozen=True)
class Scenario:
    """A kind of request."""

    name: str
    rows: int
    make: Callable[[Post, int, int], Ask]  # server, rows, number of the picture
    different: int = 1

    def requests(self, post: Post) -> list[Ask]:
        """Those that clients send in turn."""
        return [self.make(post, self.rows, number) for number in range(self.different)]


def embedding(post: Post, rows: int, number: int) -> Ask:
    """Rows of one embedding, as a client asks that wants several pictures."""
    vector = np.random.default_rng(number).standard_normal(post.width, np.float32)
    return post.ask(
        "icgan_from_embedding",
        {"EMBEDDING": np.tile(vector / np.linalg.norm(vector), (rows, 1))},
        rows,
        number,
    )


def prepared(size: str) -> Callable[[Post, int, int], Ask]:
    """A photo that the client has cropped and reduced."""

    def make(post: Post, rows: int, number: int) -> Ask:
        pixels = images.load(different_photo(size, number), post.resolution)[None]
        return post.ask("icgan_from_pixels", {"PIXELS": pixels.repeat(rows, axis=0)}, rows, number)

    return make


def file(size: str) -> Callable[[Post, int, int], Ask]:
    """A photo as it is."""

    def make(post: Post, rows: int, number: int) -> Ask:
        one = different_photo(size, number)
        column = [one, *([b"" if post.repeats else one] * (rows - 1))]
        return post.ask("icgan", {"IMAGE": np.array(column, dtype=object)[:, None]}, rows, number)

    return make


SCENARIOS = (
    Scenario("1 row, embedding", 1, embedding, DIFFERENT),
    Scenario("32 rows, one embedding", 32, embedding, DIFFERENT),
    Scenario("1 row, raw pixels", 1, prepared("0.3 MP"), DIFFERENT),
    *(Scenario(f"1 row, different {size}", 1, file(size), DIFFERENT) for size in SIZES),
    Scenario("1 row, same 2 MP", 1, file("2 MP")),
    Scenario("16 rows, one 2 MP", 16, file("2 MP"), DIFFERENT),
    Scenario("1 row, 12 MP prepared by the client", 1, prepared("12 MP"), DIFFERENT),
)


def different_photo(size: str, number: int) -> bytes:
    """Photo `number`, whose pixels are no other's: decoding and embedding it is work that nobody else had."""
    file = bytearray(photo(*SIZES[size], number % PHOTOS))
    first_step = file.index(b"\xff\xdb") + 5  # of the table by which brightness was divided
    file[first_step] += number // PHOTOS
    return bytes(file)


@functools.cache
def photo(width: int, height: int, number: int) -> bytes:
    """A JPEG with the detail of a phone's photo: smooth colours, edges and noise."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize((width, height), 3)
    fine = rng.normal(0, 6, (height, width, 1)).astype(np.float32)
    pixels = np.clip(np.asarray(coarse, np.float32) + fine, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=80)
    return stream.getvalue()


@dataclass(frozen=True)
class Sender:
    """A protocol; `open` gives a function that sends a client's next request and waits for its answer."""

    open: Callable[[Sequence[Ask], int], AbstractAsyncContextManager[Send]]


def of_protocol(protocol: str, grpc_url: str, http_url: str) -> Sender:
    """`grpc`, `http` or `shared`: gRPC whose pictures come back through shared memory."""
    if protocol == "http":
        return Sender(lambda asks, clients: over_http(http_url, asks, clients))
    return Sender(lambda asks, clients: over_grpc(grpc_url, asks, clients, protocol == "shared"))


def _tensors(library: Any, inputs: Inputs) -> list[Any]:
    found = []
    for name, array in inputs.items():
        kind = "BYTES" if array.dtype == object else tritonclient.utils.np_to_triton_dtype(array.dtype)
        found.append(library.InferInput(name, list(array.shape), kind))
        found[-1].set_data_from_numpy(array)
    return found


@asynccontextmanager
async def over_grpc(url: str, asks: Sequence[Ask], clients: int, shared: bool) -> AsyncIterator[Send]:
    address = url.removeprefix("grpc://")
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with ExitStack() as stack:
        regions = stack.enter_context(_regions(address, asks, clients)) if shared else [None] * clients
        # of each client those that are its turn: all of them for all regions would be gigabytes of photos
        own = [range(client % len(asks), len(asks), clients) for client in range(clients)]
        needed = {(regions[client], number) for client in range(clients) for number in own[client]}
        bodies = {
            (region, number): _grpc_body(*asks[number][:2], region, asks[number][2])
            for region, number in needed
        }
        async with grpc.aio.insecure_channel(address, options=limits) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            turns = [0] * clients

            async def send(client: int) -> bool:
                turns[client] += 1
                number = own[client][turns[client] % len(own[client])]
                try:
                    await infer(bodies[regions[client], number])
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    return False
                return True

            yield send


def _grpc_body(ensemble: str, inputs: Inputs, region: str | None, size: int) -> bytes:
    library = tritonclient.grpc
    output = library.InferRequestedOutput("GENERATED")
    if region is not None:
        output.set_shared_memory(region, size)
    request = _get_inference_request(
        model_name=ensemble, inputs=_tensors(library, inputs), model_version="", request_id="",
        outputs=[output], sequence_id=0, sequence_start=False, sequence_end=False, priority=0,
        timeout=None, parameters=None,
    )  # fmt: skip
    return bytes(request.SerializeToString())


class _regions:  # noqa: N801  # a context manager by its name
    """Memory of this machine, one region for each client, that the server knows."""

    def __init__(self, address: str, asks: Sequence[Ask], clients: int) -> None:
        self.client = tritonclient.grpc.InferenceServerClient(address)
        self.size = max(size for _, _, size in asks)
        self.names = [f"icgan-ceiling-{os.getpid()}-{number}" for number in range(clients)]

    def __enter__(self) -> list[str]:
        self.handles = []
        for name in self.names:
            self.handles.append(shared_memory.create_shared_memory_region(name, f"/{name}", self.size))
            self.client.register_system_shared_memory(name, f"/{name}", self.size)
        return self.names

    def __exit__(self, *_: object) -> None:
        for name, handle in zip(self.names, self.handles, strict=True):
            self._unregister(name)
            shared_memory.destroy_shared_memory_region(handle)
        self.client.close()

    def _unregister(self, name: str) -> None:
        """Have the server let go of it, which lets go of a request some time after its answer."""
        for _ in range(RELEASES):
            try:
                self.client.unregister_system_shared_memory(name)
                return
            except InferenceServerException:
                time.sleep(RELEASE_S)
        raise SystemExit(f"{name}: a request still uses it")


@asynccontextmanager
async def over_http(url: str, asks: Sequence[Ask], clients: int) -> AsyncIterator[Send]:
    place = urlsplit(url)
    library = tritonclient.http
    bodies = []
    for ensemble, inputs, _ in asks:
        outputs = [library.InferRequestedOutput("GENERATED", binary_data=True)]
        body, length = library.InferenceServerClient.generate_request_body(
            _tensors(library, inputs), outputs=outputs
        )
        head = f"POST /v2/models/{ensemble}/infer HTTP/1.1\r\nHost: {place.netloc}\r\n"
        head += f"Content-Length: {len(body)}\r\n"
        head += f"Inference-Header-Content-Length: {length}\r\n\r\n" if length else "\r\n"
        bodies.append(head.encode() + body)
    lines = [await asyncio.open_connection(place.hostname, place.port) for _ in range(clients)]
    turns = [0] * clients

    async def send(client: int) -> bool:
        reader, writer = lines[client]
        turns[client] += 1
        writer.write(bodies[(client + clients * turns[client]) % len(bodies)])
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")):
            raise RuntimeError(head.decode())
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        return head.startswith(b"HTTP/1.1 200")

    try:
        yield send
    finally:
        for _, writer in lines:
            writer.close()
            await writer.wait_closed()
