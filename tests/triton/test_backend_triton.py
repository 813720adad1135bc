"""A pipeline on a server: the results of the in-process one, and errors that say whose fault it was."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import AsyncPipeline, Pipeline, Result
from icgan_runtime.errors import DeadlineError, DecodeError, RequestError, ServiceError, UnavailableError
from icgan_runtime.server.process import Server, ServerOptions, free_ports
from tests.triton.test_icgan import PHOTO, png
from tests.triton.wire import PROTOCOLS, statistics

pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
pytest.importorskip("tritonclient.http", reason="pip install 'icgan[triton]'")
from icgan_runtime.client.triton import TritonChain


def url(server: Server, protocol: str) -> str:
    return server.http_url if protocol == "http" else server.grpc_url


@pytest.fixture(params=PROTOCOLS)
def remote(request, server):
    with Pipeline.connect(url(server, request.param)) as pipe:
        yield pipe


@pytest.fixture(scope="module")
def local(tiny_bundle):
    with Pipeline.load(tiny_bundle) as pipe:
        yield pipe


def assert_same(result: Result, expected: Result) -> None:
    np.testing.assert_array_equal(result.images, expected.images)
    np.testing.assert_array_equal(result.neighbours.ids, expected.neighbours.ids)
    np.testing.assert_array_equal(result.neighbours.scores, expected.neighbours.scores)
    np.testing.assert_array_equal(result.neighbours.labels, expected.neighbours.labels)
    np.testing.assert_array_equal(result.embedding, expected.embedding)
    assert result.request == expected.request


def test_the_model_is_known_without_its_bundle(remote, local):
    assert remote.model == local.model


@pytest.mark.parametrize("condition", ["query", "nearest", "sample"])
@pytest.mark.parametrize("kind", ["path", "bytes", "small file", "pillow", "array"])
def test_a_result_is_the_one_of_the_in_process_pipeline(remote, local, tmp_path, kind, condition):
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    picture = {
        "path": tmp_path / "photo.jpg",
        "bytes": PHOTO,
        "small file": png(3, size=8),
        "pillow": Image.open(io.BytesIO(PHOTO)),
        "array": np.asarray(Image.open(io.BytesIO(PHOTO)).convert("RGB")),
    }[kind]
    options = {"n": 5, "seed": 2**62, "truncation": 0.4, "condition": condition}
    assert_same(remote.generate(picture, **options), local.generate(picture, **options))


def test_more_pictures_than_a_batch_come_in_several_with_one_run_of_the_encoder(remote, server, local):
    before = statistics(server)["icgan_encoder"]
    result = remote.generate(PHOTO, n=70, seed=1, truncation=None)
    assert statistics(server)["icgan_encoder"] - before == 1
    assert_same(result, local.generate(PHOTO, n=70, seed=1, truncation=None))


def test_embeddings_and_neighbours_are_those_of_the_in_process_pipeline(remote, local):
    pictures = [png(seed) for seed in range(40)]
    embedding = remote.embed(pictures)
    np.testing.assert_allclose(embedding, local.embed(pictures), atol=1e-6)
    ids, scores = remote.search(embedding, k=3)
    expected_ids, expected_scores = local.search(embedding, k=3)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)
    result = remote.generate_from(embedding[:1], n=3, seed=5)
    assert_same(result, local.generate_from(embedding[:1], n=3, seed=5))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("label", [None, 1])
def test_labels_travel(labelled_server, labelled_bundle, protocol, label):
    with Pipeline.load(labelled_bundle) as local, Pipeline.connect(url(labelled_server, protocol)) as remote:
        expected = local.generate(PHOTO, n=3, condition="sample", label=label)
        assert_same(remote.generate(PHOTO, n=3, condition="sample", label=label), expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_asyncio_gives_the_same_results_many_at_once(server, local, protocol):
    async def many() -> list[Result]:
        async with await AsyncPipeline.connect(url(server, protocol)) as pipe:
            results = await asyncio.gather(*(pipe.generate(PHOTO, n=2, seed=seed) for seed in range(12)))
            embedding = await pipe.embed(PHOTO)
            results.append(await pipe.generate_from(embedding, n=2, seed=0))
            await pipe.search(embedding)
            return results

    *results, from_embedding = asyncio.run(many())
    for seed, result in enumerate(results):
        expected = local.generate(PHOTO, n=2, seed=seed).images.astype(int)
        assert np.abs(result.images - expected).max() <= 1, (
            "a batch shared with others may move one grey level"
        )
    assert np.abs(from_embedding.images - results[0].images.astype(int)).max() <= 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_streams_give_the_pictures_of_one_request_in_order(server, local, protocol):
    async def streamed() -> list[Result]:
        async with await AsyncPipeline.connect(url(server, protocol)) as pipe:
            return [part async for part in pipe.stream(PHOTO, n=70, seed=1, batch=8)]

    expected = local.generate(PHOTO, n=70, seed=1).images.astype(int)
    with Pipeline.connect(url(server, protocol)) as pipe:
        for parts in (list(pipe.stream(PHOTO, n=70, seed=1, batch=8)), asyncio.run(streamed())):
            assert [len(part.images) for part in parts] == [8] * 8 + [6]
            assert np.abs(np.concatenate([part.images for part in parts]) - expected).max() <= 1


def test_a_stream_asks_no_further_ahead_than_it_says_and_not_after_its_reader_has_left(server, monkeypatch):
    asked: list[int] = []
    generate_from = AsyncPipeline.generate_from

    async def counted(pipe: AsyncPipeline, embedding: Any, *, n: int, **settings: Any) -> Result:
        asked.append(n)
        return await generate_from(pipe, embedding, n=n, **settings)

    async def read_five() -> None:
        async with await AsyncPipeline.connect(server.grpc_url) as pipe:
            stream = pipe.stream(PHOTO, n=10_000_000, batch=2, ahead=2)
            for read in range(5):
                await anext(stream)
                await asyncio.sleep(0)
                assert len(asked) <= read + 3
            assert isinstance(stream, AsyncGenerator)
            await stream.aclose()
            await pipe.embed(PHOTO)  # whatever else was to be asked has had its turn

    monkeypatch.setattr(AsyncPipeline, "generate_from", counted)
    asyncio.run(read_five())
    assert len(asked) <= 7


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_threads_may_share_a_pipeline(server, local, protocol):
    expected = local.embed(PHOTO)
    with Pipeline.connect(url(server, protocol)) as pipe, ThreadPoolExecutor(8) as pool:
        for embedding in pool.map(lambda _: pipe.embed(PHOTO), range(32)):
            np.testing.assert_allclose(embedding, expected, atol=1e-6)


@pytest.fixture(scope="module")
def slow_server(start, tiny_bundle) -> Server:
    """Every stage waits for company: a lone request takes two seconds."""
    return start(tiny_bundle, queue_delay_us=400_000)


def regions(server: Server) -> list[str]:
    """Shared memory that the server has mapped for clients."""
    listed = json.loads(server.call("v2/systemsharedmemory/status"))
    return [region["name"] for region in listed]


async def generate_soon(address: str, **options: Any) -> Result:
    async with await AsyncPipeline.connect(address, **options) as pipe:
        return await pipe.generate(PHOTO)


@pytest.mark.parametrize("shared", [None, "system"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_that_takes_too_long_is_given_up_in_time(slow_server, protocol, shared):
    options = {"timeout_s": 1, "shared_memory": shared}
    with (
        Pipeline.connect(url(slow_server, protocol), **options) as pipe,
        pytest.raises(DeadlineError),
    ):
        pipe.generate(PHOTO)
    with pytest.raises(DeadlineError):
        asyncio.run(generate_soon(url(slow_server, protocol), **options))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_memory_carries_the_same_bytes(server, local, protocol):
    pixels = np.asarray(Image.open(io.BytesIO(PHOTO)).convert("RGB"))

    async def together() -> list[Result]:
        async with await AsyncPipeline.connect(url(server, protocol), shared_memory="system") as pipe:
            return list(await asyncio.gather(*(pipe.generate(pixels, seed=seed) for seed in range(4))))

    with Pipeline.connect(url(server, protocol), shared_memory="system") as pipe:
        assert len(regions(server)) == 1
        for picture in (PHOTO, pixels):
            assert_same(pipe.generate(picture, n=70, seed=6), local.generate(picture, n=70, seed=6))
        np.testing.assert_allclose(pipe.embed([PHOTO, png(1)]), local.embed([PHOTO, png(1)]), atol=1e-6)
        with ThreadPoolExecutor(8) as pool:
            for seed, result in enumerate(pool.map(lambda seed: pipe.generate(pixels, seed=seed), range(16))):
                difference = result.images.astype(int) - local.generate(pixels, seed=seed).images
                assert np.abs(difference).max() <= 1, "a picture of another request"
    for seed, result in enumerate(asyncio.run(together())):
        difference = result.images.astype(int) - local.generate(pixels, seed=seed).images
        assert np.abs(difference).max() <= 1, "a picture of another request"
    assert regions(server) == []


def test_a_late_answer_does_not_reach_the_memory_of_another_request(slow_server, local):
    with Pipeline.connect(slow_server.grpc_url, timeout_s=1, shared_memory="system") as pipe:
        before = set(regions(slow_server))
        with pytest.raises(DeadlineError):
            pipe.generate(PHOTO, seed=1)
        assert isinstance(pipe.chain, TritonChain)
        exchange = pipe.chain._exchange
        assert exchange.pool is not None
        exchange._timeout_s = 30
        assert_same(pipe.generate(PHOTO, seed=2), local.generate(PHOTO, seed=2))
        after = {region.name for region in exchange.pool._free}
        assert not after & before
        assert after <= set(regions(slow_server))
    assert not any((Path("/dev/shm") / name).exists() for name in before | after)


def test_shared_memory_of_an_unknown_kind_is_refused(server):
    with pytest.raises(RequestError, match="'posix', expected None, system or cuda"):
        Pipeline.connect(server.grpc_url, shared_memory="posix")


def test_cuda_memory_without_cuda_is_one_line_with_the_remedy(server):
    if importlib.util.find_spec("cuda"):
        pytest.skip("this machine may have it")
    remedy = r"shared_memory: 'cuda' needs pip install 'tritonclient\[cuda\]'"
    with pytest.raises(RequestError, match=remedy):
        Pipeline.connect(server.grpc_url, shared_memory="cuda")
    with pytest.raises(RequestError, match=remedy):
        asyncio.run(generate_soon(server.grpc_url, shared_memory="cuda"))


def test_a_server_that_others_reach_maps_no_memory_for_strangers(server, environment):
    with Server(server.repository, environment, ServerOptions(host="127.0.0.2")) as reachable:
        reachable.wait_until_ready()
        for protocol in PROTOCOLS:
            with pytest.raises(ServiceError, match="restricted"):
                Pipeline.connect(url(reachable, protocol), shared_memory="system")
            with pytest.raises(ServiceError, match="restricted"):
                asyncio.run(generate_soon(url(reachable, protocol), shared_memory="system"))


def test_a_refused_request_is_not_asked_again(server):
    def refused() -> float:
        with urllib.request.urlopen(server.metrics_url) as response:
            [value] = re.findall(
                r"^icgan_decode_failures_total (\S+)$", response.read().decode(), re.MULTILINE
            )
        return float(value)

    before = refused()
    with Pipeline.connect(server.http_url, retries=3) as pipe, pytest.raises(DecodeError):
        pipe.generate(b"not a picture")
    assert refused() == before + 1


def test_a_bad_picture_is_the_same_error_as_in_process(remote, local):
    for bad in (b"", b"not a picture", PHOTO[: len(PHOTO) // 2]):
        with pytest.raises(DecodeError) as here:
            local.generate(bad)
        with pytest.raises(DecodeError) as there:
            remote.generate(bad)
        assert str(there.value) == str(here.value)


def test_what_stays_on_the_server_says_so(remote, local):
    with pytest.raises(RequestError, match="bank"):
        remote.with_bank(local.bank)
    with pytest.raises(RequestError, match="k: 6"):
        remote.search(remote.embed(PHOTO), k=6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_absent_server_is_reported_after_the_retries(protocol):
    with pytest.raises(UnavailableError):
        Pipeline.connect(f"{protocol}://127.0.0.1:{free_ports().http}", retries=1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_never_answers_is_given_up_in_time(protocol):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises((DeadlineError, UnavailableError)):
            Pipeline.connect(f"{protocol}://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.5)
        assert time.monotonic() - started < 10


def test_an_unavailable_server_is_tried_again_until_it_is_there(server):
    """A door that slams twice before it lets anyone through to the server."""
    slammed = threading.Semaphore(0)

    def relay(door: socket.socket) -> None:
        for _ in range(2):
            door.accept()[0].close()
            slammed.release()
        visitor, _ = door.accept()
        with visitor, socket.create_connection(("127.0.0.1", server.options.ports.http)) as inside:
            threading.Thread(target=pump, args=(inside, visitor), daemon=True).start()
            pump(visitor, inside)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=relay, args=(door,), daemon=True)
        thread.start()
        with Pipeline.connect(f"http://127.0.0.1:{door.getsockname()[1]}") as pipe:
            assert pipe.model.name == "tiny"
        assert slammed.acquire(blocking=False)
        assert slammed.acquire(blocking=False)
        thread.join(5)
