"""A pipeline on a server: the results of the in-process one, and errors that say whose fault it was."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import AsyncPipeline, Pipeline, Result
from icgan_runtime.errors import DeadlineError, DecodeError, RequestError, ServiceError, UnavailableError
from icgan_runtime.remote import back_off, error_of
from icgan_runtime.serve import Server, free_ports
from tests.triton.test_icgan import PHOTO, png
from tests.triton.wire import PROTOCOLS, statistics

pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
pytest.importorskip("tritonclient.http", reason="pip install 'icgan[triton]'")


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
            return [part async for part in pipe.stream(PHOTO, 70, seed=1, batch=8)]

    expected = local.generate(PHOTO, n=70, seed=1).images.astype(int)
    with Pipeline.connect(url(server, protocol)) as pipe:
        for parts in (list(pipe.stream(PHOTO, 70, seed=1, batch=8)), asyncio.run(streamed())):
            assert [len(part.images) for part in parts] == [8] * 8 + [6]
            assert np.abs(np.concatenate([part.images for part in parts]) - expected).max() <= 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_threads_may_share_a_pipeline(server, local, protocol):
    expected = local.embed(PHOTO)
    with Pipeline.connect(url(server, protocol)) as pipe, ThreadPoolExecutor(8) as pool:
        for embedding in pool.map(lambda _: pipe.embed(PHOTO), range(32)):
            np.testing.assert_allclose(embedding, expected, atol=1e-6)


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


@pytest.mark.parametrize("address", ["localhost:8001", "ftp://localhost:1", "grpc://", ""])
def test_a_malformed_address_is_refused(address):
    with pytest.raises(RequestError, match="url"):
        Pipeline.connect(address)


def test_a_refusal_keeps_the_servers_words_and_the_field():
    error = error_of("INVALID_ARGUMENT", "in ensemble 'icgan', TRUNCATION: 0.0, expected a number")
    assert isinstance(error, RequestError)
    assert (error.field, str(error)) == ("truncation", "truncation: 0.0, expected a number")
    assert isinstance(error_of("400", "in ensemble 'icgan', IMAGE: cannot be decoded"), DecodeError)
    assert isinstance(error_of("UNAVAILABLE", "Exceeds maximum queue size"), UnavailableError)
    assert type(error_of("500", "Stub process is not healthy")) is ServiceError


def test_pauses_between_retries_double():
    assert list(back_off(3)) == [0.1, 0.2, 0.4]
