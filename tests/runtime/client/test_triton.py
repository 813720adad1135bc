"""The clients of a server, blocking and asyncio, gRPC and HTTP; the stand-in misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import AsyncPipeline, Pipeline, Result
from icgan_runtime.client.protocol import Call
from icgan_runtime.errors import (
    DeadlineError,
    MissingExtraError,
    RequestError,
    ServiceError,
    UnavailableError,
)

pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
pytest.importorskip("tritonclient.http", reason="pip install 'icgan[triton]'")
from icgan_runtime.client import exchange, triton
from icgan_runtime.client.connection import Address
from icgan_runtime.client.library import CudaRegion, load_library
from icgan_runtime.client.regions import SystemRegion
from tests.runtime.stand_in import MAX_BATCH, StandIn

PHOTO = (Path(__file__).parents[2] / "golden" / "photo.jpg").read_bytes()
PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
REGION_BYTES = MAX_BATCH * 8 * 8 * 3


class Client:
    """A pipeline on a server whose methods wait, whichever kind it is."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self.runner = asyncio.Runner() if kind == "asyncio" else None
        if self.runner is None:
            self.pipe: Any = Pipeline.connect(url, **options)
            return
        try:
            self.pipe = self.runner.run(AsyncPipeline.connect(url, **options))
        except BaseException:
            self.runner.close()
            raise

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.pipe, name)
        if self.runner is None or not callable(method):
            return method
        run = self.runner.run
        return lambda *arguments, **options: run(method(*arguments, **options))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self.runner is not None:
            self.runner.close()


@pytest.fixture
def stand_in(tiny_bundle) -> Iterator[StandIn]:
    with StandIn(tiny_bundle) as stand_in:
        yield stand_in


@pytest.fixture
def local(stand_in) -> Pipeline:
    return stand_in.pipe


@pytest.fixture(params=["blocking", "asyncio"])
def kind(request) -> str:
    return str(request.param)


@pytest.fixture(params=["grpc", "http"])
def protocol(request) -> str:
    return str(request.param)


@pytest.fixture
def connect(kind, protocol, stand_in):
    return lambda **options: Client(kind, stand_in.url(protocol), **options)


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """How long the clients wait between their tries, by a clock that only those pauses move."""
    waited: list[float] = []
    at_once = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await at_once(0)

    clock = SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited))
    monkeypatch.setattr(triton, "time", clock)
    monkeypatch.setattr(exchange, "time", clock)
    monkeypatch.setattr(triton, "asyncio", SimpleNamespace(sleep=sleep, wait_for=asyncio.wait_for))
    return waited


def png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "png")
    return stream.getvalue()


def assert_same(result: Result, expected: Result) -> None:
    np.testing.assert_array_equal(result.images, expected.images)
    np.testing.assert_array_equal(result.neighbours.ids, expected.neighbours.ids)
    np.testing.assert_allclose(result.neighbours.scores, expected.neighbours.scores)
    np.testing.assert_array_equal(result.neighbours.labels, expected.neighbours.labels)
    np.testing.assert_allclose(result.embedding, expected.embedding, atol=1e-6)
    assert result.request == expected.request


# ---- answers ---------------------------------------------------------------------------------------------


def test_results_are_those_of_the_in_process_pipeline(connect, local, stand_in):
    asked: dict[str, Any] = {"n": 6, "seed": 5, "truncation": 0.4, "condition": "sample", "first": 3}
    with connect() as client:
        assert client.model == local.model
        assert_same(client.generate(PICTURE, **asked), local.generate(PICTURE, **asked))
        assert stand_in.seen == ["icgan_from_pixels", "icgan_from_embedding"], "the picture travels once"
        assert_same(client.generate(PHOTO, truncation=None), local.generate(PHOTO, truncation=None))
        embedding = client.embed([PICTURE, PHOTO] * 3)
        np.testing.assert_allclose(embedding, local.embed([PICTURE, PHOTO] * 3), atol=1e-6)
        asked = {**asked, "condition": "nearest"}
        assert_same(client.generate_from(embedding[0], **asked), local.generate_from(embedding[0], **asked))
        for k in (None, 2):
            ids, scores = client.search(embedding, k=k)
            expected_ids, expected_scores = local.search(embedding, k=k)
            np.testing.assert_array_equal(ids, expected_ids)
            np.testing.assert_allclose(scores, expected_scores)
        assert_same(client.generate_from(embedding[1]), local.generate_from(embedding[1]))
        assert_same(client.generate(PICTURE), local.generate(PICTURE))


def test_labels_travel_both_ways(kind, protocol, labelled_bundle):
    with StandIn(labelled_bundle) as stand_in, Client(kind, stand_in.url(protocol)) as client:
        for label in (None, 2):
            expected = stand_in.pipe.generate(PICTURE, n=2, condition="nearest", label=label)
            assert_same(client.generate(PICTURE, n=2, condition="nearest", label=label), expected)
            embedding = stand_in.pipe.embed(PICTURE)
            expected = stand_in.pipe.generate_from(embedding, n=2, condition="nearest", label=label)
            assert_same(client.generate_from(embedding, n=2, condition="nearest", label=label), expected)


def test_a_file_smaller_than_its_pixels_travels_as_it_is(connect, local, stand_in):
    grey = np.full((8, 8, 3), 70, np.uint8)
    assert len(png(grey)) < grey.nbytes < len(PHOTO)
    with connect() as client:
        assert_same(client.generate(png(grey), n=2), local.generate(png(grey), n=2))
        assert stand_in.seen.pop() == "icgan"
        client.generate(PHOTO)
        assert stand_in.seen.pop() == "icgan_from_pixels"


def test_a_stream_is_one_request_in_pages(connect, local, stand_in, kind):
    expected = local.generate(PICTURE, n=5, seed=2).images
    with connect() as client:
        if kind == "blocking":
            parts = list(client.pipe.stream(PICTURE, n=5, seed=2, batch=2))
        else:

            async def read() -> list[Result]:
                return [part async for part in client.pipe.stream(PICTURE, n=5, seed=2, batch=2)]

            parts = client.runner.run(read())
    assert [len(part.images) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), expected)
    assert stand_in.seen.count("icgan_from_pixels") == 1, "the picture travels once"


def test_a_stream_is_of_seed_zero_and_in_batches_of_thirty_two_unless_told_otherwise(connect, local, kind):
    with connect() as client:
        if kind == "blocking":
            parts = list(client.pipe.stream(PICTURE, n=33))
        else:

            async def read() -> list[Result]:
                return [part async for part in client.pipe.stream(PICTURE, n=33)]

            parts = client.runner.run(read())
    assert [len(part.images) for part in parts] == [32, 1]
    np.testing.assert_array_equal(parts[1].images[0], local.generate(PICTURE, n=33).images[32])


def test_threads_may_share_a_connection(protocol, stand_in, local):
    expected = [local.generate(PICTURE, seed=seed).images for seed in range(8)]
    with Pipeline.connect(stand_in.url(protocol)) as pipe, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: pipe.generate(PICTURE, seed=seed).images, range(8)))
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_threads_that_follow_each_other_may_share_a_connection(protocol, stand_in, local):
    """A new thread often gets the number of one that has ended."""
    expected = local.generate(PICTURE).images
    with Pipeline.connect(stand_in.url(protocol)) as pipe:
        open_before = polls()
        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                found = pool.submit(pipe.generate, PICTURE).result()
            np.testing.assert_array_equal(found.images, expected)
        assert polls() == open_before, "each left its event loop behind"


def polls() -> int:
    """Event loops of this process that hold a file open."""
    count = 0
    for file in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):  # closed since
            count += "eventpoll" in os.readlink(file)
    return count


def test_a_last_try_ends_in_time_too(protocol, stand_in):
    with Pipeline.connect(stand_in.url(protocol), timeout_s=2, retries=4) as pipe:
        stand_in.refusals.extend([("UNAVAILABLE", "full")] * 4)
        stand_in.patience.clear()
        started = time.monotonic()
        with pytest.raises(DeadlineError):
            pipe.generate(PICTURE)  # 1.5 seconds of pauses, then an answer that does not come
        assert time.monotonic() - started < 3
        stand_in.patience.set()


def test_what_stays_on_the_server_says_so(protocol, stand_in, local):
    with Pipeline.connect(stand_in.url(protocol)) as pipe:
        assert pipe.chain.bank is None
        assert pipe.chain.neighbours == 5
        with pytest.raises(RequestError, match=r"^bank: a server's instances are changed on the server"):
            pipe.with_bank(local.bank)
        answer = pipe.chain.ask(  # type: ignore[attr-defined]
            Call("icgan_from_embedding", {"EMBEDDING": local.embed(PICTURE), **plain()}, ("NEIGHBOUR_IDS",))
        )
    np.testing.assert_array_equal(answer["NEIGHBOUR_IDS"], local.search(local.embed(PICTURE))[0])


def plain() -> dict[str, np.ndarray]:
    return {
        "SEED": np.zeros((1, 1), np.int64),
        "SAMPLE": np.zeros((1, 1), np.int64),
        "TRUNCATION": np.ones((1, 1), np.float32),
        "CONDITION": np.zeros((1, 1), np.int32),
    }


# ---- refusals --------------------------------------------------------------------------------------------


def test_a_server_that_sheds_load_is_asked_again_after_pauses_that_double(connect, local, stand_in, pauses):
    with connect(retries=2) as client:
        stand_in.refusals.extend([("UNAVAILABLE", "Exceeds maximum queue size")] * 2)
        assert_same(client.generate(PICTURE), local.generate(PICTURE))
        assert (len(stand_in.seen), pauses) == (3, [0.1, 0.2])
        stand_in.refusals.extend([("UNAVAILABLE", f"full {number}") for number in range(3)])
        with pytest.raises(UnavailableError, match="full 2"):
            client.generate(PICTURE)
        assert len(stand_in.seen) == 6


def test_a_pause_that_would_end_after_the_time_limit_is_not_begun(connect, stand_in, pauses):
    with connect(retries=9, timeout_s=0.5) as client:
        stand_in.refusals.extend([("UNAVAILABLE", "full")] * 10)
        with pytest.raises(UnavailableError, match="full"):
            client.generate(PICTURE)
    assert pauses == [0.1, 0.2]
    assert stand_in.timeouts == pytest.approx([500_000, 400_000, 200_000], abs=1)


@pytest.mark.parametrize(
    ("status", "words", "error"),
    [
        ("INVALID_ARGUMENT", "in ensemble 'icgan_from_pixels', SEED: 1, expected 2", RequestError),
        ("INTERNAL", "Stub process is not healthy", ServiceError),
        ("DEADLINE_EXCEEDED", "Request timeout expired", DeadlineError),
    ],
)
def test_any_other_refusal_is_final_and_keeps_its_words(connect, stand_in, pauses, status, words, error):
    with connect(retries=3) as client:
        stand_in.refusals.append((status, words))
        with pytest.raises(error) as caught:
            client.generate(PICTURE)
    assert type(caught.value) is error
    assert "in ensemble" not in str(caught.value)
    assert str(caught.value).rpartition(": ")[2] in words
    assert (len(stand_in.seen), pauses) == (1, [])


def test_an_answer_that_does_not_come_is_given_up_in_time_and_the_server_was_told_the_limit(
    connect, stand_in
):
    with connect(timeout_s=0.4) as client:
        stand_in.patience.clear()
        started = time.monotonic()
        with pytest.raises(DeadlineError):
            client.generate(PICTURE)
        stand_in.patience.set()
    assert time.monotonic() - started < 5
    assert 300_000 < stand_in.timeouts[0] <= 400_000


def test_by_default_a_request_has_thirty_seconds_and_three_retries(connect, stand_in, pauses):
    with connect() as client:
        stand_in.refusals.extend([("UNAVAILABLE", "full")] * 4)
        with pytest.raises(UnavailableError):
            client.generate(PICTURE)
    assert pauses == [0.1, 0.2, 0.4]
    assert stand_in.timeouts[0] == 30_000_000


def test_no_client_library_gives_up_before_the_time_is_over(kind, stand_in, monkeypatch):
    """Over HTTP each has a limit of its own: a minute unless it is told."""
    library = load_library("http", kind == "asyncio")
    real, told = library.InferenceServerClient, []

    def client(host: str, **options: Any) -> Any:
        told.append({name: value for name, value in options.items() if name.endswith("timeout")})
        return real(host, **options)

    monkeypatch.setattr(library, "InferenceServerClient", client)
    with Client(kind, stand_in.http_url, timeout_s=90):
        pass
    [limits] = told
    assert limits
    assert set(limits.values()) == {90}


def test_nobody_there_is_said_after_the_retries(kind, protocol, stand_in, pauses):
    url = stand_in.url(protocol)
    stand_in.__exit__()
    with pytest.raises(UnavailableError) as caught:
        Client(kind, url, retries=1, timeout_s=5)
    assert str(caught.value).startswith(f"{url}: ")
    assert pauses == [0.1]
    stand_in.__enter__()


def test_an_ensemble_of_somebody_else_is_refused(kind, protocol, stand_in):
    stand_in.change["parameters"] = {}
    with pytest.raises(ServiceError) as caught:
        Client(kind, stand_in.url(protocol))
    expected = f"{stand_in.url(protocol)} serves an 'icgan' that this version's `icgan-export triton`"
    assert str(caught.value).startswith(f"{expected} did not write (")


def test_a_reader_who_leaves_a_stream_cancels_what_is_under_way(stand_in):
    cancelled: list[int] = []

    async def read_one() -> None:
        async with await AsyncPipeline.connect(stand_in.grpc_url) as pipe:
            ask = pipe.generate_from

            async def slow(embedding: Any, *, first: int, **settings: Any) -> Result:
                if first == 0:
                    return await ask(embedding, first=first, **settings)
                try:
                    return await asyncio.Future()
                except asyncio.CancelledError:
                    cancelled.append(first)
                    raise

            pipe.generate_from = slow  # type: ignore[method-assign, assignment]
            stream = pipe.stream(PICTURE, n=100, batch=1)
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            await asyncio.sleep(0)
            assert cancelled == [1, 2]

    asyncio.run(read_one())


def test_a_stream_keeps_two_batches_under_way_besides_the_one_that_is_read(stand_in):
    async def read_two() -> None:
        async with await AsyncPipeline.connect(stand_in.grpc_url) as pipe:
            asked: list[int] = []
            ask = pipe.generate_from

            async def counted(embedding: Any, *, n: int, **settings: Any) -> Result:
                asked.append(n)
                return await ask(embedding, n=n, **settings)

            pipe.generate_from = counted  # type: ignore[method-assign, assignment]
            stream = pipe.stream(PICTURE, n=100, batch=2)
            for read in (1, 2):
                assert len((await anext(stream)).images) == 2
                await asyncio.sleep(0)
                assert asked == [2] * (read + 2)
            await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(read_two())


def test_an_asyncio_connection_is_entered_or_awaited(stand_in, local):
    async def all_ways() -> None:
        async with AsyncPipeline.connect(stand_in.grpc_url) as pipe:
            found = [await pipe.search(PICTURE, k=2)]
            assert repr(pipe) == f"AsyncPipeline(tiny, 8 × 8, {stand_in.grpc_url})"
        async with await AsyncPipeline.connect(stand_in.grpc_url) as pipe:
            found.append(await pipe.search(PICTURE, k=2))
        pipe = await asyncio.create_task(AsyncPipeline.connect(stand_in.grpc_url))
        found.append(await pipe.search(await pipe.embed(PICTURE), k=2))
        await pipe.close()
        for ids, _ in found:
            np.testing.assert_array_equal(ids, local.search(PICTURE, k=2)[0])

    asyncio.run(all_ways())


@pytest.mark.parametrize("method", ["generate", "generate_from", "search"])
def test_after_the_picture_everything_has_a_name(connect, method):
    with connect() as client, pytest.raises(TypeError, match="positional"):
        getattr(client, method)(PICTURE, 2)


def test_the_route_of_a_server_is_what_is_known_of_it(connect, kind, protocol, stand_in):
    with connect(shared_memory="system") as client:
        route = client.route
    name = {"grpc": "gRPC", "http": "HTTP"}[protocol]
    assert (route.backend, route.url) == ("triton", stand_in.url(protocol))
    assert route.protocol == f"{name} with system shared memory"
    assert (route.provider, route.precision, route.search, route.threads) == (None, None, None, None)
    assert route.reasons["precision"] == "the server's choice"
    assert str(route) == f"triton server {route.url}, {route.protocol} (serves tiny)"


# ---- shared memory ---------------------------------------------------------------------------------------


def memory() -> set[str]:
    """Shared memory of this process."""
    return {path.name for path in Path("/dev/shm").glob(f"icgan-{os.getpid()}-*")}


def test_pictures_pass_through_memory_that_is_given_back(connect, local, stand_in):
    before = memory()
    with connect(shared_memory="system") as client:
        [(name, (key, size))] = stand_in.regions.items()
        assert (key, size) == (f"/{name}", REGION_BYTES)
        assert_same(client.generate(PICTURE, n=6, seed=1), local.generate(PICTURE, n=6, seed=1))
        np.testing.assert_allclose(client.embed([PICTURE] * 5), local.embed([PICTURE] * 5), atol=1e-6)
        client.generate(PICTURE)
        assert stand_in.seen.count("register") == 2, "one for the pixels, one for what is generated"
        assert len(memory() - before) == 2
    assert stand_in.regions == {}
    assert memory() == before


def test_a_region_whose_request_failed_is_never_lent_again(connect, local, stand_in):
    with connect(shared_memory="system", retries=0) as client:
        client.generate(PICTURE)
        used = set(stand_in.regions)
        stand_in.refusals.append(("INTERNAL", "broken"))
        with pytest.raises(ServiceError, match="broken"):
            client.generate(PICTURE)
        assert used <= memory(), "the server may still be writing"
        stand_in.region_refusals.append(("INTERNAL", "in use"))  # for the first of the two
        assert_same(client.generate(PICTURE), local.generate(PICTURE))
        assert len(used & set(stand_in.regions)) == 0, "the second time the server let go of it"
        assert not used & memory()
        assert len(stand_in.regions) == 2
        assert set(stand_in.regions) <= memory()
    assert stand_in.regions == {}


def test_memory_is_freed_when_the_server_has_let_go_of_it(connect, stand_in, monkeypatch):
    """CUDA leaves undefined what becomes of a GPU's memory that goes before."""
    freed: list[bool] = []
    close = SystemRegion.close

    def watched(region: SystemRegion) -> None:
        freed.append(region.name in stand_in.regions)
        close(region)

    monkeypatch.setattr(SystemRegion, "close", watched)
    with connect(shared_memory="system", retries=0) as client:
        stand_in.refusals.append(("INTERNAL", "broken"))
        with pytest.raises(ServiceError):
            client.generate(PICTURE)
        client.generate(PICTURE)
        assert freed == [False] * 2
    assert freed == [False] * 4


def test_a_server_that_was_started_anew_is_told_of_new_regions(connect, local, stand_in, pauses):
    with connect(shared_memory="system") as client:
        client.generate(PICTURE)
        stand_in.regions.clear()
        assert_same(client.generate(PICTURE), local.generate(PICTURE))
        assert pauses == [0.1]


def test_a_region_that_the_server_keeps_is_asked_for_again(connect, stand_in):
    with connect(shared_memory="system", retries=0) as client:
        stand_in.refusals.append(("INTERNAL", "broken"))
        with pytest.raises(ServiceError):
            client.generate(PICTURE)
        kept = set(stand_in.regions)
        # the picture's region is new: the server refuses to forget both others; so it does for the answer's
        stand_in.region_refusals.extend([("INTERNAL", "in use")] * 2)
        client.embed(PICTURE)
        assert kept - set(stand_in.regions) == set()
        assert len(stand_in.regions) == 3
    assert stand_in.regions == {}, "asked once more at the end"


def test_a_server_that_maps_no_memory_says_so_at_once(kind, protocol, stand_in, pauses):
    before = memory()
    # as a Triton does by each protocol
    words = {
        "grpc": ("UNAVAILABLE", "This protocol is restricted"),
        "http": ("INTERNAL", "This API is restricted"),
    }
    stand_in.region_refusals.append(words[protocol])
    with pytest.raises(ServiceError, match="restricted") as caught:
        Client(kind, stand_in.url(protocol), shared_memory="system")
    assert caught.type is ServiceError
    assert pauses == []
    assert memory() == before


def test_closing_does_not_mind_a_server_that_has_forgotten(connect, stand_in):
    with connect(shared_memory="system") as client:
        client.generate(PICTURE)
        stand_in.region_refusals.append(("INTERNAL", "no such region"))
    assert len(stand_in.regions) == 1, "the other one was still unregistered"


def test_memory_of_an_unknown_kind_is_refused(kind, protocol, stand_in):
    with pytest.raises(
        RequestError, match=r"^shared_memory: 'posix', expected None, system or cuda$"
    ) as caught:
        Client(kind, stand_in.url(protocol), shared_memory="posix")
    assert caught.value.field == "shared_memory"


class FakeCuda(ModuleType):
    """tritonclient.utils.cuda_shared_memory, on host memory."""

    CudaSharedMemoryException = type("CudaSharedMemoryException", (Exception,), {})

    def __init__(self) -> None:
        super().__init__("cuda_shared_memory")
        self.held: dict[str, bytearray] = {}
        self.devices: list[int] = []

    def create_shared_memory_region(self, name: str, size: int, device: int) -> str:
        if size > 1000:
            raise self.CudaSharedMemoryException("out of memory")
        self.held[name] = bytearray(size)
        self.devices.append(device)
        return name

    def get_raw_handle(self, handle: str) -> bytes:
        return handle.encode()

    def set_shared_memory_region(self, handle: str, arrays: list[np.ndarray]) -> None:
        data = b"".join(array.tobytes() for array in arrays)
        self.held[handle][: len(data)] = data

    def get_contents_as_numpy(self, handle: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        return np.frombuffer(self.held[handle], dtype, count).reshape(shape)

    def destroy_shared_memory_region(self, handle: str) -> None:
        del self.held[handle]


def test_a_region_of_the_gpu_holds_what_is_written_until_it_is_closed(monkeypatch):
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "tritonclient.utils.cuda_shared_memory", cuda)
    monkeypatch.setattr(sys.modules["tritonclient.utils"], "cuda_shared_memory", cuda, raising=False)
    region, other = CudaRegion(96), CudaRegion(96)
    assert region.name != other.name
    assert region.name.startswith("icgan-")
    assert region.registration == (region.name, region.name.encode(), 0, 96)
    assert (region.size, cuda.devices) == (96, [0, 0])
    array = np.arange(24, dtype=np.int32).reshape(4, 6)
    region.write(array)
    read = region.read("int32", (4, 6))
    np.testing.assert_array_equal(read, array)
    region.write(array + 1)
    np.testing.assert_array_equal(read, array, "a copy")
    region.close()
    assert list(cuda.held) == [other.name]
    with pytest.raises(RequestError, match=r"^shared_memory: 'cuda', but out of memory$"):
        CudaRegion(1001)


def test_memory_of_the_gpu_without_its_library_names_the_remedy(kind, protocol, stand_in, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient.utils.cuda_shared_memory", None)
    monkeypatch.delattr(sys.modules["tritonclient.utils"], "cuda_shared_memory", raising=False)
    remedy = r"^shared_memory: 'cuda' needs pip install 'tritonclient\[cuda\]'$"
    with pytest.raises(RequestError, match=remedy):
        Client(kind, stand_in.url(protocol), shared_memory="cuda")


# ---- addresses and libraries -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "protocol", "host", "encrypted"),
    [
        ("grpc://a:1", "grpc", "a:1", False),
        ("grpcs://a:1", "grpc", "a:1", True),
        ("http://a:1", "http", "a:1", False),
        ("https://a:1/icgan/", "http", "a:1/icgan", True),
    ],
)
def test_an_address_says_how_a_server_is_reached(url, protocol, host, encrypted):
    assert Address.parse(url) == Address(url, protocol, host, encrypted)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8001",
        "ftp://localhost:1",
        "grpc://",
        "grpc://:8001",
        "http://localhost:port",
        "grpc://localhost:80010",
        "http://localhost:0",
        "grpc://[::1",
        "",
    ],
)
def test_a_malformed_address_is_refused(kind, url):
    with pytest.raises(RequestError) as caught:
        Client(kind, url)
    assert str(caught.value) == (
        f"url: {url!r}, expected one of grpc://, grpcs://, http://, https:// and then host:port"
    )


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_missing_library_is_named_with_its_extra(kind, protocol, monkeypatch):
    for module in (f"tritonclient.{protocol}", f"tritonclient.{protocol}.aio"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingExtraError, match=rf"tritonclient\[{protocol}\].*pip install 'icgan\[triton\]'"
    ):
        Client(kind, f"{protocol}://localhost:1")


def test_without_any_client_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "icgan_runtime.client.triton", None)
    with pytest.raises(MissingExtraError) as caught:
        asyncio.run(AsyncPipeline.connect("grpc://localhost:1"))
    assert str(caught.value) == "tritonclient is not installed: pip install 'icgan[triton]'"


@pytest.mark.parametrize("encrypted", [False, True])
def test_an_encrypted_address_is_reached_encrypted(kind, protocol, stand_in, monkeypatch, encrypted):
    """The client library is told; whether it can is up to certificates that no test has."""
    library = load_library(protocol, kind == "asyncio")
    real, told = library.InferenceServerClient, []

    def client(host: str, *, ssl: bool, **options: Any) -> Any:
        told.append((host, ssl))
        return real(host, **options)

    monkeypatch.setattr(library, "InferenceServerClient", client)
    url = stand_in.url(protocol)
    Client(kind, url.replace("://", "s://") if encrypted else url).__exit__()
    assert told == [(url.partition("://")[2], encrypted)]
