"""What is said to a server and what its answers mean, without a wire. test_triton.py has the wires."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import images
from icgan_runtime.bundle.strict_json import to_json
from icgan_runtime.client import protocol
from icgan_runtime.client.protocol import MORE, NEIGHBOURS, Call, ServedModel, back_off, error_of
from icgan_runtime.errors import (
    DeadlineError,
    DecodeError,
    IcganError,
    NumericsError,
    RequestError,
    ServiceError,
    UnavailableError,
)
from icgan_runtime.request import Request, make_request
from tests.models.make_models import tiny_model

SERVICE = ServedModel("grpc://here:1", tiny_model(classes=3), neighbours=5, labelled=True, max_batch=4)
PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def request(n: int = 1) -> Request:
    return make_request(n, 7, 0.5, "nearest", 2, 3, 10)


def answer(call: Call, fill: int = 100) -> dict[str, np.ndarray]:
    rows = len(call.inputs["SEED"])
    return {
        "EMBEDDING": np.full((rows, 12), 0.25, np.float32),
        "GENERATED": np.full((rows, 8, 8, 3), fill, np.uint8),
        "NEIGHBOUR_IDS": np.arange(5 * rows).reshape(rows, 5),
        "NEIGHBOUR_SCORES": np.ones((rows, 5), np.float32),
        "NEIGHBOUR_LABELS": np.zeros((rows, 5), np.int64),
    }


def hold(conversation: Any, **options: int) -> tuple[list[Call], Any]:
    """What was asked, and what came of it."""
    calls = [next(conversation)]
    try:
        while True:
            calls.append(conversation.send(answer(calls[-1], **options)))
    except StopIteration as done:
        return calls, done.value


def test_the_rows_of_a_request_number_its_samples_through_all_batches():
    calls, result = hold(SERVICE.generate(PICTURE, request(10)))
    assert [call.model for call in calls] == ["icgan_from_pixels"] + ["icgan_from_embedding"] * 2
    samples = [call.inputs["SAMPLE"] for call in calls]
    assert [len(rows) for rows in samples] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(samples), np.arange(10, 20)[:, None])
    for call in calls:
        assert set(call.inputs) - {"PIXELS", "EMBEDDING"} == {
            "SEED",
            "SAMPLE",
            "TRUNCATION",
            "CONDITION",
            "LABEL",
        }
        for name, value in {"SEED": 7, "TRUNCATION": 0.5, "CONDITION": 1, "LABEL": 2}.items():
            assert call.inputs[name].tolist() == [[value]] * len(call.inputs["SAMPLE"])
    outputs = ("GENERATED", "NEIGHBOUR_IDS", "NEIGHBOUR_SCORES", "NEIGHBOUR_LABELS")
    assert [call.outputs for call in calls] == [(*outputs, "EMBEDDING"), ("GENERATED",), ("GENERATED",)]
    np.testing.assert_array_equal(calls[0].inputs["PIXELS"], np.repeat(PICTURE[None], 4, axis=0))
    np.testing.assert_array_equal(calls[2].inputs["EMBEDDING"], np.full((2, 12), 0.25))
    assert result.images.shape == (10, 8, 8, 3)
    assert result.neighbours.ids.tolist() == [0, 1, 2, 3, 4]
    assert (result.neighbours.scores.shape, result.neighbours.labels.shape) == ((5,), (5,))
    assert (result.embedding.shape, result.request) == ((12,), request(10))


def test_a_server_says_what_the_neighbours_are_called_and_whether_the_picture_is_outside():
    service = dataclasses.replace(SERVICE, says=MORE)
    conversation = service.nearest(np.full((2, 12), 0.25, np.float32), 2)
    call = next(conversation)
    assert call.outputs == (*NEIGHBOURS, *MORE)
    names = np.array([["é.png".encode(), b"b.png", b""], [b"c.png", b"", b""]], object)
    said = {
        "NEIGHBOUR_NAMES": names,
        "NEIGHBOUR_CLASSES": np.full((2, 3), b"", object),
        "OUTSIDE_BELOW": np.array([[0.5], [2]], np.float32),
        "BANK_STATE": np.full((2, 1), b"7-abc", object),
    }
    with pytest.raises(StopIteration) as done:
        conversation.send(answer(call) | said)
    first, second = done.value.value
    assert (first.names, first.classes, first.outside) == (("é.png", "b.png"), None, False)
    assert first.bank_state == "7-abc"
    assert (second.title(0), second.title(1), second.outside) == ("c.png", "no. 6", True)


def test_a_server_of_before_says_nothing_of_names_and_is_not_asked():
    calls, result = hold(SERVICE.generate(PICTURE, request()))
    assert not set(MORE) & set(calls[0].outputs)
    assert (result.neighbours.names, result.neighbours.outside_below, result.outside) == (None, None, False)


def photo() -> bytes:
    """A file that is larger than what the encoder sees of it."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_a_picture_travels_once_to_a_server_that_understands_it(monkeypatch):
    service = dataclasses.replace(SERVICE, repeats=True)
    file = photo()
    (call, *_), _ = hold(service.generate(file, request(4)))
    assert call.inputs["PIXELS"].shape == (4, 8, 8, 3), "as small as that it is not worth a file"
    monkeypatch.setattr(protocol, "REPEATED_BYTES", 4 * 8 * 8 * 3 - 1)
    (call, *_), _ = hold(service.generate(file, request(4)))
    (first, *others) = call.inputs["IMAGE"][:, 0]
    assert (call.model, others) == ("icgan", [b""] * 3)
    np.testing.assert_array_equal(images.load(first, 8), images.load(file, 8), "as the server will see it")
    assert len(first) < len(file)
    (call, *_), _ = hold(service.generate(file, request(1)))
    np.testing.assert_array_equal(call.inputs["PIXELS"], images.load(file, 8)[None])
    (call, *_), _ = hold(SERVICE.generate(file, request(4)))
    assert call.inputs["PIXELS"].shape == (4, 8, 8, 3), "an older server"


def test_a_file_travels_as_it_is_to_a_server_that_prepares_it():
    service = dataclasses.replace(SERVICE, prepare="server")
    file = photo()
    (call, *_), _ = hold(service.generate(file, request(2)))
    assert call.inputs["IMAGE"].tolist() == [[file], [file]]
    (call, *_), _ = hold(dataclasses.replace(service, repeats=True).generate(file, request(2)))
    assert call.inputs["IMAGE"].tolist() == [[file], [b""]]
    calls, _ = hold(service.embed([file, file]))
    assert [(call.model, call.inputs["IMAGE"].tolist()) for call in calls] == [("icgan", [[file], [file]])]
    calls, _ = hold(service.embed([file, PICTURE]))
    assert [call.model for call in calls] == ["icgan_from_pixels"]


def test_an_embedding_is_repeated_for_each_sample():
    given = np.arange(12, dtype=np.float32)[None]
    calls, result = hold(SERVICE.generate_from(given, request(6)))
    assert [call.model for call in calls] == ["icgan_from_embedding"] * 2
    np.testing.assert_array_equal(calls[1].inputs["EMBEDDING"], given.repeat(2, axis=0))
    np.testing.assert_array_equal(result.embedding, given[0])
    assert len(result.images) == 6


def test_embedding_and_searching_ask_for_nothing_else():
    pictures = [np.full((8, 8, 3), grey, np.uint8) for grey in range(6)]
    calls, embedding = hold(SERVICE.embed(pictures))
    assert [(call.model, call.outputs) for call in calls] == [("icgan_from_pixels", ("EMBEDDING",))] * 2
    np.testing.assert_array_equal(np.concatenate([call.inputs["PIXELS"] for call in calls]), pictures)
    assert calls[0].inputs["LABEL"].tolist() == [[0]] * 4, "every input is mandatory"
    assert embedding.shape == (6, 12)
    calls, (ids, scores) = hold(SERVICE.search(embedding, 2))
    wanted = ("NEIGHBOUR_IDS", "NEIGHBOUR_SCORES")
    assert [(call.model, call.outputs) for call in calls] == [("icgan_from_embedding", wanted)] * 2
    assert [len(call.inputs["EMBEDDING"]) for call in calls] == [4, 2]
    assert ids.tolist() == [[0, 1], [5, 6], [10, 11], [15, 16], [0, 1], [5, 6]]
    assert scores.shape == (6, 2)


@pytest.mark.parametrize("k", [0, 6])
def test_more_neighbours_than_the_server_finds_are_refused(k):
    with pytest.raises(RequestError) as caught:
        hold(SERVICE.search(np.zeros((1, 12), np.float32), k))
    assert str(caught.value) == f"k: {k}, expected 1..5 of this server"


@pytest.mark.parametrize("k", [1, 5])
def test_as_many_as_the_server_finds_are_had(k):
    assert hold(SERVICE.search(np.zeros((1, 12), np.float32), k))[1][0].shape == (1, k)


def test_a_black_picture_is_reported_with_the_server():
    with pytest.raises(NumericsError, match=r"^grpc://here:1: image 0 of 2 is black"):
        hold(SERVICE.generate(PICTURE, request(2)), fill=0)


def test_a_service_without_labels_neither_asks_for_them_nor_sends_them():
    plain = ServedModel("here", tiny_model(), neighbours=5, labelled=False, max_batch=4)
    calls, result = hold(plain.generate(PICTURE, make_request(1, 0, 1.0, "query", None, 0)))
    assert "LABEL" not in calls[0].inputs
    assert calls[0].outputs == ("GENERATED", "NEIGHBOUR_IDS", "NEIGHBOUR_SCORES", "EMBEDDING")
    assert result.neighbours.labels is None


def test_the_servers_configuration_says_what_it_serves():
    config: dict[str, Any] = {
        "max_batch_size": "4",
        "output": [{"name": "GENERATED", "dims": ["8", "8", "3"]}, {"name": "NEIGHBOUR_IDS", "dims": ["5"]}],
        "parameters": {"model": {"string_value": json.dumps(to_json(tiny_model()))}},
    }
    found = ServedModel.of_config("http://here:1", config)
    assert found == ServedModel("http://here:1", tiny_model(), neighbours=5, labelled=False, max_batch=4)
    config["output"].append({"name": "NEIGHBOUR_LABELS", "dims": [5]})
    assert ServedModel.of_config("here", config).labelled


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config["parameters"].clear(), "'model' is missing"),
        (lambda config: config["output"].pop(), "'NEIGHBOUR_IDS' is missing"),
        (
            lambda config: config["parameters"]["model"].update(string_value="{}"),
            "model: key 'name' is missing",
        ),
        (lambda config: config["parameters"]["model"].update(string_value="icgan"), "Expecting value: .*"),
    ],
)
def test_a_model_of_another_program_or_version_is_an_error_of_the_service(change, reason):
    config: dict[str, Any] = {
        "max_batch_size": 4,
        "output": [{"name": "NEIGHBOUR_IDS", "dims": ["5"]}],
        "parameters": {"model": {"string_value": json.dumps(to_json(tiny_model()))}},
    }
    change(config)
    words = "here serves an 'icgan' that this version's `icgan-export triton` did not write"
    with pytest.raises(ServiceError, match=rf"^{words} \({reason}\)$"):
        ServedModel.of_config("here", config)


@pytest.mark.parametrize(
    ("status", "words", "expected"),
    [
        ("400", "in ensemble 'icgan', IMAGE: cannot be\ndecoded", DecodeError("cannot be\ndecoded")),
        ("INVALID_ARGUMENT", "PIXELS: too many", DecodeError("too many")),
        (
            "INVALID_ARGUMENT",
            "in ensemble 'icgan', TRUNCATION: 0.0, low",
            RequestError("truncation", "0.0, low"),
        ),
        ("400", "NEIGHBOUR_IDS: odd", RequestError("neighbour_ids", "odd")),
        ("400", "unexpected inference input 'X'", RequestError("request", "unexpected inference input 'X'")),
        ("503", "full", UnavailableError("full")),
        ("429", "full", UnavailableError("full")),
        ("UNAVAILABLE", "full", UnavailableError("full")),
        ("400", "Request for model which has no available versions", None),
        ("404", "Unable to find shared memory region: 'icgan-1'", None),
        ("NOT_FOUND", "Unable to find shared memory region: 'icgan-1'", None),
        ("504", "late", DeadlineError("late")),
        ("DEADLINE_EXCEEDED", "late", DeadlineError("late")),
        ("500", "IMAGE: broken", ServiceError("IMAGE: broken")),
        ("INTERNAL", "Stub process is not healthy", ServiceError("Stub process is not healthy")),
    ],
)
def test_a_refusal_keeps_the_servers_words_and_the_field(status, words, expected):
    error = error_of(status, words)
    expected = expected or UnavailableError(words)
    assert isinstance(error, IcganError)
    assert (type(error), str(error), vars(error)) == (type(expected), str(expected), vars(expected))


def test_pauses_between_retries_double():
    assert list(back_off(3)) == [0.1, 0.2, 0.4]
    assert list(back_off(0)) == []
