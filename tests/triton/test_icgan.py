"""The served chain: what comes back is what the in-process pipeline computes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import AsyncPipeline, Pipeline
from icgan_runtime.errors import RequestError
from icgan_runtime.marks.mark import read_marks
from icgan_runtime.origin import recover
from icgan_runtime.origin.prove import PROVED, Queries, prove
from icgan_runtime.rows import CONDITIONS, OWN_LABEL
from tests.triton.wire import RefusedError, Wire, rows, statistics

PHOTO = (Path(__file__).parents[1] / "golden" / "photo.jpg").read_bytes()


@pytest.fixture(scope="module")
def pipe(tiny_bundle):
    with Pipeline.load(tiny_bundle) as pipe:
        yield pipe


@pytest.fixture(scope="module")
def labelled_pipe(labelled_bundle):
    with Pipeline.load(labelled_bundle) as pipe:
        yield pipe


def png(seed: int, size: int = 20) -> bytes:
    """A small picture of coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blocks).resize((size, size), Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("condition", range(len(CONDITIONS)), ids=CONDITIONS)
def test_the_same_request_gives_the_same_bytes_as_in_process(wire, pipe, condition):
    answer = wire.ask("icgan", {"IMAGE": [PHOTO] * 4, **rows(4, SEED=[9] * 4, CONDITION=[condition] * 4)})
    expected = pipe.generate(PHOTO, n=4, seed=9, truncation=0.7, condition=CONDITIONS[condition])
    np.testing.assert_array_equal(answer["GENERATED"], expected.images)
    for row in range(4):
        np.testing.assert_array_equal(answer["NEIGHBOUR_IDS"][row], expected.neighbours.ids)
        np.testing.assert_array_equal(answer["NEIGHBOUR_SCORES"][row], expected.neighbours.scores)
        np.testing.assert_array_equal(answer["NEIGHBOUR_LABELS"][row], expected.neighbours.labels)
        told = tuple(name.decode() for name in answer["NEIGHBOUR_NAMES"][row])
        assert told == expected.neighbours.names
        assert answer["OUTSIDE_BELOW"][row, 0] == np.float32(expected.neighbours.outside_below)
        np.testing.assert_array_equal(answer["EMBEDDING"][row], expected.embedding)


@pytest.mark.parametrize("label", [None, 2])
def test_a_labelled_model_gives_the_same_bytes_as_in_process(labelled_wire, labelled_pipe, label):
    wire_label = OWN_LABEL if label is None else label
    answer = labelled_wire.ask("icgan", {"IMAGE": [PHOTO] * 3, **rows(3, LABEL=[wire_label] * 3)})
    expected = labelled_pipe.generate(PHOTO, n=3, seed=0, truncation=0.7, label=label)
    np.testing.assert_array_equal(answer["GENERATED"], expected.images)


def test_a_server_draws_instances_as_this_process_does(labelled_server, server, labelled_pipe):
    expected = labelled_pipe.generate(n=40, seed=6)
    with Pipeline.connect(labelled_server.grpc_url) as remote:
        drawn = remote.generate(n=40, seed=6)
        told = remote.generate(n=2, seed=6, label=1, condition="nearest")
    np.testing.assert_array_equal(drawn.embeddings, expected.embeddings)
    assert np.abs(drawn.images.astype(int) - expected.images).max() <= 1
    own = labelled_pipe.generate(n=2, seed=6, label=1, condition="nearest")
    assert np.abs(told.images.astype(int) - own.images).max() <= 1

    async def ask():
        async with AsyncPipeline.connect(labelled_server.http_url) as remote:
            return await remote.generate(n=2, seed=6)

    np.testing.assert_array_equal(asyncio.run(ask()).embeddings, expected.embeddings[:2])
    with (
        Pipeline.connect(server.grpc_url) as remote,
        pytest.raises(RequestError, match="what this server serves has no prior"),
    ):
        remote.generate(n=2)


def test_untruncated_noise_is_infinity_on_the_wire(wire, pipe):
    answer = wire.ask("icgan", {"IMAGE": [PHOTO], **rows(1, TRUNCATION=[np.inf])})
    np.testing.assert_array_equal(answer["GENERATED"], pipe.generate(PHOTO, truncation=None).images)


@pytest.mark.parametrize("truncation", [0.7, None])
def test_a_stylegan2_model_takes_psi_from_the_request(truncation, stylegan2_server, stylegan2_bundle):
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    with Pipeline.load(stylegan2_bundle) as local, Pipeline.connect(stylegan2_server.grpc_url) as remote:
        here, there = (pipe.generate(PHOTO, n=4, seed=9, truncation=truncation) for pipe in (local, remote))
    np.testing.assert_array_equal(there.images, here.images)


def test_pixels_give_the_same_pictures_as_the_file_they_came_from(wire):
    pixels = np.asarray(Image.open(io.BytesIO(PHOTO)).convert("RGB"))
    from_pixels = wire.ask("icgan_from_pixels", {"PIXELS": pixels[None], **rows(1)})
    from_file = wire.ask("icgan", {"IMAGE": [PHOTO], **rows(1)})
    for name, array in from_file.items():
        np.testing.assert_array_equal(from_pixels[name], array)


def test_an_embedding_gives_the_same_pictures_as_its_picture(wire):
    from_file = wire.ask("icgan", {"IMAGE": [PHOTO] * 2, **rows(2)})
    from_embedding = wire.ask("icgan_from_embedding", {"EMBEDDING": from_file["EMBEDDING"], **rows(2)})
    np.testing.assert_array_equal(from_embedding["GENERATED"], from_file["GENERATED"])
    np.testing.assert_array_equal(from_embedding["NEIGHBOUR_IDS"], from_file["NEIGHBOUR_IDS"])


def test_many_images_of_one_picture_run_the_encoder_once(wire):
    before = statistics(wire.server)
    wire.ask("icgan", {"IMAGE": [PHOTO] * 16, **rows(16)})
    after = statistics(wire.server)
    assert after["icgan_encoder"] - before["icgan_encoder"] == 1
    assert after["icgan_condition"] - before["icgan_condition"] == 1, "searched once"
    assert after["icgan_generator"] - before["icgan_generator"] == 16


def test_a_picture_that_several_clients_show_at_once_is_embedded_once(server, pipe):
    def shared() -> int:
        metrics = urllib.request.urlopen(server.metrics_url).read().decode()
        (found,) = re.findall(
            r'^icgan_shared_rows_total{.*model="icgan_encoder".*} (\d+)$', metrics, re.MULTILINE
        )
        return int(found)

    async def embed() -> list[np.ndarray]:
        async with AsyncPipeline.connect(server.grpc_url) as remote:
            return await asyncio.gather(*(remote.embed(PHOTO) for _ in range(32)))

    rows, before = statistics(server)["icgan_encoder"], shared()
    for _ in range(20):  # until some of them have waited together
        for embedding in asyncio.run(embed()):
            np.testing.assert_allclose(embedding, pipe.embed(PHOTO), atol=1e-6)
        if shared() > before:
            break
    asked = statistics(server)["icgan_encoder"] - rows
    assert 0 < asked - (shared() - before) < asked, "runs of the encoder"


def test_an_empty_row_shows_the_picture_of_the_row_before(wire):
    pictures = [png(0), PHOTO, PHOTO, png(0)]
    expected = wire.ask("icgan", {"IMAGE": pictures, **rows(4)})
    answer = wire.ask("icgan", {"IMAGE": [png(0), PHOTO, b"", png(0)], **rows(4)})
    for name, array in expected.items():
        np.testing.assert_array_equal(answer[name], array)


@pytest.mark.parametrize("prepare", ["client", "server"])
def test_whoever_prepares_a_picture_the_bytes_are_those_of_the_process(server, pipe, prepare):
    photo = io.BytesIO()
    Image.open(io.BytesIO(PHOTO)).resize((640, 480)).save(photo, "JPEG")
    for n in (1, 4):
        expected = pipe.generate(photo.getvalue(), n=n, seed=2)
        with Pipeline.connect(server.grpc_url, prepare=prepare) as remote:
            result = remote.generate(photo.getvalue(), n=n, seed=2)
            np.testing.assert_array_equal(remote.embed([photo.getvalue()])[0], expected.embedding)
        np.testing.assert_array_equal(result.images, expected.images)
        np.testing.assert_array_equal(result.embedding, expected.embedding)


def test_rows_of_one_request_may_show_different_pictures(wire, pipe):
    pictures = [png(0), PHOTO, png(0), png(1)]
    before = statistics(wire.server)["icgan_encoder"]
    answer = wire.ask("icgan", {"IMAGE": pictures, **rows(4, SAMPLE=[0] * 4)})
    assert statistics(wire.server)["icgan_encoder"] - before == 3
    for row, picture in enumerate(pictures):
        expected = pipe.generate(picture, truncation=0.7)
        np.testing.assert_array_equal(answer["NEIGHBOUR_IDS"][row], expected.neighbours.ids)
        difference = answer["GENERATED"][row].astype(int) - expected.images[0]
        assert np.abs(difference).max() <= 1, "another batch size may move a byte by one grey level, not more"


def test_asking_for_neighbours_only_does_not_run_the_generator(wire):
    before = statistics(wire.server)["icgan_generator"]
    answer = wire.ask("icgan", {"IMAGE": [PHOTO], **rows(1)}, outputs=["NEIGHBOUR_IDS", "EMBEDDING"])
    assert set(answer) == {"NEIGHBOUR_IDS", "EMBEDDING"}
    assert statistics(wire.server)["icgan_generator"] == before


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_pictures_come_as_files_on_request(wire, kind):
    asked = {"IMAGE": [PHOTO] * 2, **rows(2)}
    answer = wire.ask("icgan_file", {**asked, "FORMAT": [f"image/{kind}".encode()] * 2})
    expected = wire.ask("icgan", asked)["GENERATED"]
    for file, pixels in zip(answer["PICTURE"][:, 0], expected, strict=True):
        assert read_marks(file).generated
        picture = Image.open(io.BytesIO(file))
        assert picture.format == kind.upper()
        if kind != "jpeg":
            np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_a_served_file_is_proved_by_drawing_it_again(wire, pipe):
    asked = {"IMAGE": [PHOTO] * 2, **rows(2, SEED=[8, 9], SAMPLE=[0, 3], CONDITION=[0, 1])}
    answer = wire.ask("icgan_file", {**asked, "FORMAT": [b"image/png"] * 2})
    queries = Queries(pipe.embed([PHOTO]))
    for row, (file,) in enumerate(answer["PICTURE"]):
        marks = read_marks(file)
        assert (marks.claim.seed, marks.claim.first) == ((8, 0), (9, 3))[row]
        assert marks.claim.source.identity == pipe.chain.source.identity
        assert marks.claim.source.bank == pipe.chain.source.bank
        settings = recover.Candidates(range(1), range(1), 1.0)
        assert prove(file, marks, pipe.chain, queries, settings).verdict == PROVED


def test_plain_json_gives_a_png(server, pipe):
    body = {
        "IMAGE": base64.b64encode(PHOTO).decode(),
        "SEED": 3,
        "SAMPLE": 0,
        "TRUNCATION": 0.5,
        "CONDITION": 0,
        "FORMAT": "image/png;base64",
    }
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/icgan_file/generate", data=json.dumps(body).encode()
    )
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
    picture = Image.open(io.BytesIO(base64.b64decode(answer["PICTURE"])))
    expected = pipe.generate(PHOTO, seed=3, truncation=0.5)
    np.testing.assert_array_equal(np.asarray(picture), expected.images[0])
    assert answer["NEIGHBOUR_IDS"] == expected.neighbours.ids.tolist()


def test_a_picture_as_text_is_taken_however_its_base64_is_written(wire):
    plain = base64.b64encode(PHOTO)
    texts = [
        plain,
        base64.encodebytes(PHOTO),
        base64.urlsafe_b64encode(PHOTO).rstrip(b"="),
        b"data:image/jpeg;base64," + plain,
    ]
    asked = {"IMAGE": [PHOTO, *texts], **rows(5)}
    found = wire.ask("icgan", asked)["EMBEDDING"]
    np.testing.assert_array_equal(found, np.repeat(found[:1], 5, axis=0))


def test_a_data_url_without_base64_is_refused_with_a_sentence(wire):
    with pytest.raises(RefusedError) as caught:
        wire.ask("icgan", {"IMAGE": [b"data:image/svg+xml,%3Csvg/%3E"], **rows(1)})
    assert "IMAGE: a data: URL that is not base64" in caught.value.words


@pytest.mark.parametrize("search", ["graph", "faiss-ivf"])
def test_every_form_of_search_finds_the_same_neighbours(start, tiny_bundle, server, search):
    asked = {"IMAGE": [png(seed) for seed in range(16)], **rows(16)}
    with Wire(start(tiny_bundle, search=search), "grpc") as other, Wire(server, "grpc") as wire:
        answer, expected = other.ask("icgan", asked), wire.ask("icgan", asked)
    np.testing.assert_array_equal(answer["NEIGHBOUR_IDS"], expected["NEIGHBOUR_IDS"])
    np.testing.assert_allclose(answer["NEIGHBOUR_SCORES"], expected["NEIGHBOUR_SCORES"], atol=1e-6)
