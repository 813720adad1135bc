"""Strangers' requests on a live server: odd pictures are served, bad requests refused, others unharmed."""

from __future__ import annotations

import io
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import Pipeline
from tests.triton.test_icgan import PHOTO, png
from tests.triton.wire import TYPES, RefusedError, Wire, rows


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def gradient(mode: str) -> Image.Image:
    y, x = np.mgrid[0:24, 0:40]
    return Image.fromarray(np.stack([6 * x, 10 * y, 3 * (x + y)], axis=-1).astype(np.uint8)).convert(mode)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(gradient("RGB"), "JPEG", exif=exif)


ODD = {
    "cmyk": encoded(gradient("CMYK"), "JPEG"),
    "grey": encoded(gradient("L")),
    "alpha": encoded(gradient("RGBA")),
    "palette": encoded(gradient("P"), "GIF"),
    "16 bit": encoded(Image.fromarray((np.arange(600).reshape(20, 30) * 100).astype(np.uint16))),
    "upside down": rotated(),
    "animated": encoded(gradient("RGB"), "WEBP", save_all=True, append_images=[gradient("RGB").rotate(90)]),
    "large": encoded(gradient("RGB").resize((3000, 2000)), "JPEG"),
}
BAD = {
    "empty": b"",
    "text": b"<html>not a picture</html>",
    "truncated": PHOTO[: len(PHOTO) // 2],
    "corrupt": png(0)[:40] + bytes(20) + png(0)[60:],
    "32 bit": encoded(Image.new("F", (9, 9)), "TIFF"),
    "raw": b"FUJIFILMCCD-RAW " + bytes(40),
}
COLUMN = {"SEED": np.int64, "SAMPLE": np.int64, "TRUNCATION": np.float32, "CONDITION": np.int32}


@pytest.fixture(scope="module")
def pipe(tiny_bundle):
    with Pipeline.load(tiny_bundle) as pipe:
        yield pipe


def refusal(wire: Wire, model: str, inputs: dict[str, Any]) -> str:
    """The words of an INVALID_ARGUMENT."""
    with pytest.raises(RefusedError) as caught:
        wire.ask(model, inputs)
    assert caught.value.is_invalid_argument, caught.value
    return caught.value.words


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_picture_gives_the_same_bytes_as_in_process(wire, pipe, kind):
    answer = wire.ask("icgan", {"IMAGE": [ODD[kind]], **rows(1)})
    np.testing.assert_array_equal(answer["GENERATED"], pipe.generate(ODD[kind], truncation=0.7).images)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_is_refused_by_name(wire, kind):
    assert "IMAGE: " in refusal(wire, "icgan", {"IMAGE": [BAD[kind]], **rows(1)})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("SEED", -1),
        ("SAMPLE", -5),
        ("TRUNCATION", 0),
        ("TRUNCATION", -0.5),
        ("TRUNCATION", 1.5),
        ("TRUNCATION", np.nan),
        ("TRUNCATION", -np.inf),
        ("CONDITION", 3),
        ("CONDITION", -1),
    ],
)
def test_a_value_out_of_range_is_refused_by_name_though_the_other_rows_are_good(wire, field, value):
    good = rows(3)
    good[field][1] = value
    assert f"{field}: " in refusal(wire, "icgan", {"IMAGE": [PHOTO] * 3, **good})


@pytest.mark.parametrize("label", [3, -1, 2**62])
def test_an_unknown_label_is_refused_by_name(labelled_wire, label):
    assert "LABEL: " in refusal(labelled_wire, "icgan", {"IMAGE": [PHOTO], **rows(1, LABEL=[label])})


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 2.0])
def test_an_embedding_that_is_none_is_refused_by_name(wire, value):
    embedding = np.full((1, 12), value, np.float32)
    words = refusal(wire, "icgan_from_embedding", {"EMBEDDING": embedding, **rows(1)})
    assert "EMBEDDING: " in words


@pytest.mark.parametrize("shape", [(1, 0, 5, 3), (1, 5, 0, 3)])
def test_pixels_without_area_are_refused(wire, shape):
    assert "PIXELS" in refusal(wire, "icgan_from_pixels", {"PIXELS": np.zeros(shape, np.uint8), **rows(1)})


def test_an_unknown_file_format_is_refused_by_name(wire):
    words = refusal(wire, "icgan_file", {"IMAGE": [PHOTO], **rows(1), "FORMAT": [b"image/tiff"]})
    assert "FORMAT: " in words


@pytest.mark.parametrize("field", ["IMAGE", *COLUMN])
def test_a_missing_input_is_refused_by_name(wire, field):
    inputs = {"IMAGE": [PHOTO], **rows(1)}
    del inputs[field]
    assert field in refusal(wire, "icgan", inputs)


@pytest.mark.parametrize("field", COLUMN)
def test_a_wrong_shape_is_refused_by_name(wire, field):
    wide = np.zeros((1, 2), COLUMN[field])
    assert field in refusal(wire, "icgan", {"IMAGE": [PHOTO], **rows(1, **{field: wide})})


def test_a_missing_label_is_refused_by_name(labelled_wire):
    assert "LABEL" in refusal(labelled_wire, "icgan", {"IMAGE": [PHOTO], **rows(1)})


@pytest.mark.parametrize(
    ("model", "field", "shape"),
    [
        ("icgan", "IMAGE", (1, 2)),
        ("icgan_from_pixels", "PIXELS", (1, 20, 20, 4)),
        ("icgan_from_pixels", "PIXELS", (1, 20, 20)),
        ("icgan_from_embedding", "EMBEDDING", (1, 11)),
    ],
)
def test_a_source_of_a_wrong_shape_is_refused_by_name(wire, model, field, shape):
    source = np.full(shape, PHOTO, object) if field == "IMAGE" else np.zeros(shape, TYPES[field][1])
    assert field in refusal(wire, model, {field: source, **rows(1)})


@pytest.mark.parametrize("field", ["IMAGE", *COLUMN])
def test_a_wrong_type_is_refused_by_name(wire, field):
    inputs = {"IMAGE": [PHOTO], **rows(1)}
    tensors = [wire._tensor(name, value) for name, value in inputs.items() if name != field]
    tensors.append(wire.library.InferInput(field, [1, 1], "FP64"))
    tensors[-1].set_data_from_numpy(np.zeros((1, 1)))
    with pytest.raises(RefusedError, match=field) as caught:
        wire.infer("icgan", tensors)
    assert caught.value.is_invalid_argument


def test_inputs_of_different_lengths_are_refused(wire):
    refusal(wire, "icgan", {"IMAGE": [PHOTO] * 2, **rows(3)})


def test_ten_thousand_rows_are_refused_before_anything_is_computed(wire):
    words = refusal(wire, "icgan", {"IMAGE": [png(0, 8)] * 10_000, **rows(10_000)})
    assert "batch-size must be <= 32" in words


def test_a_stage_called_on_its_own_checks_its_rows(wire):
    """The stages are public too; rows beyond the pictures must not reach memory that is not theirs."""
    embedding = wire.library.InferInput("embedding", [2, 12], "FP32")
    embedding.set_data_from_numpy(np.eye(12, dtype=np.float32)[:2])
    rows = wire.library.InferInput("rows", [2, 1], "BYTES")
    for packed, words in (([b"five", b""], "ROWS: not records"), ([bytes(40), bytes(40)], "ROWS: not each")):
        rows.set_data_from_numpy(np.array(packed, dtype=object)[:, None])
        with pytest.raises(Exception, match=words):
            wire.client.infer("icgan_condition", [embedding, rows])
    with pytest.raises(Exception, match="SEED: missing"):
        wire.client.infer("icgan_condition", [embedding])


ONE_ROW = {
    "SEED": ("INT64", [1], bytes(8)),
    "SAMPLE": ("INT64", [1], bytes(8)),
    "TRUNCATION": ("FP32", [1], struct.pack("<f", 1)),
    "CONDITION": ("INT32", [1], bytes(4)),
}
# What a stage takes that batches. The server lets a request pass that says 0 rows and brings the data of one.
NO_ROWS: dict[str, dict[str, tuple[str, list[int], bytes]]] = {
    "icgan_preprocess": {"IMAGE": ("BYTES", [1], struct.pack("<I", len(PHOTO)) + PHOTO), **ONE_ROW},
    "icgan_encoder": {"image": ("UINT8", [8, 8, 3], bytes(192))},
    "icgan_condition": {"embedding": ("FP32", [12], np.eye(12, dtype=np.float32)[0].tobytes()), **ONE_ROW},
    "icgan_generator": {"noise": ("FP32", [6], bytes(24)), "embedding": ("FP32", [12], bytes(48))},
    "icgan_picture": {
        "GENERATED": ("UINT8", [8, 8, 3], bytes(range(192))),
        "FORMAT": ("BYTES", [1], struct.pack("<I", 9) + b"image/png"),
        **ONE_ROW,
    },
}


def test_requests_without_rows_do_not_disturb_the_good_ones_that_share_their_batches(server, pipe):
    grpc = pytest.importorskip("grpc")
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc

    def ask(number: int) -> str:
        if number % 2:
            stage = list(NO_ROWS)[number // 2 % len(NO_ROWS)]
            request = pb.ModelInferRequest(model_name=stage)
            for name, (kind, shape, data) in NO_ROWS[stage].items():
                request.inputs.add(name=name, datatype=kind, shape=[0, *shape])
                request.raw_input_contents.append(data)
            with pytest.raises(grpc.RpcError):
                stranger.ModelInfer(request)
            return "refused"
        with Wire(server, "grpc") as wire:
            wire.ask("icgan_file", {"IMAGE": [PHOTO], **rows(1), "FORMAT": [b"image/png"]})
            return "good"

    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        stranger = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with ThreadPoolExecutor(16) as pool:
            answered = list(pool.map(ask, range(320)))
    assert answered == ["good", "refused"] * 160


def test_clients_that_send_half_a_picture_and_stop_hold_no_stage(server, pipe):
    place = server.options.host, server.options.ports.http
    head = (
        f"POST /v2/models/icgan_file/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {2 * len(PHOTO)}\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(place)).sendall(head.encode() + PHOTO)
        for protocol in ("http", "grpc"):
            with Wire(server, protocol) as wire:
                answer = wire.ask("icgan", {"IMAGE": [PHOTO], **rows(1)})
            np.testing.assert_array_equal(answer["GENERATED"], pipe.generate(PHOTO, truncation=0.7).images)


def test_a_label_that_only_the_generator_sees_does_not_disturb_the_good_ones_in_its_batches(labelled_server):
    stage = {
        "noise": ("FP32", np.zeros((1, 6), np.float32)),
        "embedding": ("FP32", np.eye(1, 12, dtype=np.float32)),
    }

    def ask(number: int) -> str:
        with Wire(labelled_server, "grpc") as wire:
            if number % 2:
                inputs = []
                for name, (kind, array) in {**stage, "label": ("INT64", np.array([[999]]))}.items():
                    inputs.append(wire.library.InferInput(name, list(array.shape), kind))
                    inputs[-1].set_data_from_numpy(array)
                with pytest.raises(RefusedError):
                    wire.infer("icgan_generator", inputs)
                return "refused"
            wire.ask("icgan", {"IMAGE": [PHOTO], **rows(1, LABEL=[0])})
            return "good"

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(128))) == ["good", "refused"] * 64


def test_bad_requests_do_not_disturb_the_good_ones_that_share_their_batches(server, pipe):
    expected = pipe.generate(PHOTO, truncation=0.7).images.astype(int)

    def ask(number: int) -> str:
        with Wire(server, "grpc") as wire:
            picture = [PHOTO, BAD["truncated"], PHOTO, PHOTO][number % 4]
            truncation = [0.7, 0.7, 0, 0.7][number % 4]
            try:
                answer = wire.ask("icgan", {"IMAGE": [picture], **rows(1, TRUNCATION=[truncation])})
            except RefusedError as error:
                return error.status
            return "good" if np.abs(answer["GENERATED"] - expected).max() <= 1 else "wrong picture"

    with ThreadPoolExecutor(16) as pool:
        answered = list(pool.map(ask, range(64)))
    refused = "StatusCode.INVALID_ARGUMENT"
    assert answered == ["good", refused, refused, "good"] * 16
