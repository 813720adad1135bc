"""The stage that decodes, in this process: what a stranger's picture leaves behind there."""

from __future__ import annotations

import gc
import io
import json
import os
import struct
import threading
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import images
from icgan_runtime.rows import Rows
from tests.triton.stages import Behind, Error, Family, Request, load_stage
from tests.triton.test_condition import scalars
from tests.triton.test_icgan import png

reader_load = images.load


def load(monkeypatch: pytest.MonkeyPatch, kept: int = 0, room: int = 64, **more: str) -> Any:
    """The stage, for pictures of 4 × 4, with one decoder."""
    monkeypatch.setattr(os, "nice", lambda increment: 0)
    model = load_stage("icgan_preprocess", monkeypatch).TritonPythonModel()
    settings = {"classes": 0, "kept_pictures": kept, "decoders": 1, "max_rows": 8, "max_queue": room, **more}

    parameters = {name: {"string_value": str(value)} for name, value in settings.items()}
    config = {"output": [{"name": "image", "dims": [4, 4, 3]}], "parameters": parameters}
    model.initialize({"model_config": json.dumps(config)})
    return model


def test_a_stage_that_ends_frees_no_metric_for_other_processes_count_on_with_them(monkeypatch):
    model = load(monkeypatch)
    model.execute([Request({"IMAGE": files(b"no picture"), **scalars(1)})])
    before = len(Family.alive)
    model.finalize()
    del model
    gc.collect()
    assert len(Family.alive) == before > 0


def watched(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Which files are decoded from here on."""
    decoded: list[bytes] = []

    def load(file: bytes, size: int, crop: str) -> images.U8:
        decoded.append(file)
        return reader_load(file, size, crop)

    monkeypatch.setattr(images, "load", load)
    return decoded


def files(*pictures: bytes) -> np.ndarray:
    return np.array(pictures, dtype=object)[:, None]


def test_a_picture_is_squeezed_where_the_bundle_says_so(monkeypatch):
    photo = Image.new("RGB", (16, 8), "black")
    photo.paste("white", (12, 0, 16, 8))
    stream = io.BytesIO()
    photo.save(stream, "PNG")
    for crop, bright in (("squeeze", True), ("centre-short-side", False)):
        stage = load(monkeypatch, crop=crop)
        (answer,) = stage.execute([Request({"IMAGE": files(stream.getvalue()), **scalars(1)})])
        assert (answer.found["image"][0, 0, 3, 0] > 200) == bright


def test_odd_exif_fills_no_log(monkeypatch):
    entries = [struct.pack("<HHII", 40000 + i, 7, 1_000_000 + i, 8) for i in range(50)]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "JPEG", exif=exif)
    picture = np.array([[stream.getvalue()]], dtype=object)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (answer,) = load(monkeypatch).execute([Request({"IMAGE": picture, **scalars(1)})])
    assert answer.found["image"].shape == (1, 4, 4, 3)
    assert said == []


def test_a_picture_travels_and_is_decoded_once_for_all_the_rows_that_show_it(monkeypatch):
    decoded = watched(monkeypatch)
    shown = files(png(0), b"", png(1), b"", png(0))
    (answer,) = load(monkeypatch).execute([Request({"IMAGE": shown, **scalars(5)})])
    assert decoded == [png(0), png(1)]
    assert len(answer.found["image"]) == 2
    rows, picture = Rows.unpack(answer.found["rows"][:, 0], labelled=False)
    assert picture.tolist() == [0, 0, 1, 1, 0]
    assert rows.sample.tolist() == [0, 1, 2, 3, 4]


def test_the_first_row_cannot_repeat_another(monkeypatch):
    (answer,) = load(monkeypatch).execute([Request({"IMAGE": files(b"", png(0)), **scalars(2)})])
    assert answer.error.args[0].startswith("IMAGE: ")


def test_a_bad_row_is_refused_before_its_picture_is_decoded_and_counted_once(monkeypatch):
    monkeypatch.setattr(images, "load", lambda *_: pytest.fail("decoded"))
    bad = scalars(1, TRUNCATION=np.array([[7]], np.float32))
    (answer,) = load(monkeypatch).execute([Request({"IMAGE": files(png(0)), **bad})])
    assert answer.error.args[0].startswith("TRUNCATION: 7.0")
    assert Family.counted == [("icgan_refused_total", {"field": "truncation"})]


def test_as_many_pictures_are_kept_as_was_asked_for_the_oldest_goes_first(monkeypatch):
    decoded = watched(monkeypatch)
    model = load(monkeypatch, kept=2)
    for number in (0, 1, 0, 2, 0, 1):
        (answer,) = model.execute([Request({"IMAGE": files(png(number)), **scalars(1)})])
        np.testing.assert_array_equal(answer.found["image"][0], reader_load(png(number), 4))
    assert decoded == [png(0), png(1), png(2), png(1)]


def test_a_picture_of_several_clients_that_wait_together_is_decoded_once(monkeypatch):
    decoded, may_go_on = watched(monkeypatch), threading.Event()
    load_watched = images.load
    monkeypatch.setattr(images, "load", lambda *call: may_go_on.wait(60) and load_watched(*call))
    model = load(monkeypatch)
    last, prepare = png(9), model.decoders.prepare

    def prepare_watched(picture: bytes) -> Any:
        if picture == last:
            may_go_on.set()
        return prepare(picture)

    monkeypatch.setattr(model.decoders, "prepare", prepare_watched)
    asked = [Request({"IMAGE": files(png(0)), **scalars(1, SEED=np.array([[n]]))}) for n in range(3)]
    *answers, _ = model.execute([*asked, Request({"IMAGE": files(last), **scalars(1)})])
    assert decoded == [png(0), last]
    for seed, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.found["image"][0], reader_load(png(0), 4))
        assert Rows.unpack(answer.found["rows"][:, 0], labelled=False)[0].seed.tolist() == [seed]


def test_a_picture_that_cannot_be_decoded_fails_for_each_who_sent_it(monkeypatch):
    asked = [Request({"IMAGE": files(png(0)[:60]), **scalars(1)}) for _ in range(2)]
    for answer in load(monkeypatch).execute(asked):
        assert answer.error.args[0].startswith("IMAGE: ")


def test_photos_are_sent_away_when_many_wait_and_prepared_pictures_still_taken(monkeypatch):
    may_go_on = threading.Event()
    monkeypatch.setattr(images, "load", lambda file, *how: may_go_on.wait(60) and reader_load(file, *how))
    model = load(monkeypatch, room=48)
    shed = model.requests.shed

    def go_on(stage: str) -> Any:
        may_go_on.set()
        return shed(stage)

    monkeypatch.setattr(model.requests, "shed", go_on)  # the first four are under way until then
    large = [png(n) + bytes(1 << 20) for n in range(5)]  # room for 48 / 12 = 4
    pixels = {"PIXELS": np.zeros((1, 4, 4, 3), np.uint8), **scalars(1)}
    requests = [Request({"IMAGE": files(picture), **scalars(1)}) for picture in large]
    answers = model.execute([*requests, Request(pixels)])
    assert [answer.error is None for answer in answers] == [True] * 4 + [False, True]
    assert answers[4].error.args[1] == Error.UNAVAILABLE
    assert Family.counted == [("icgan_shed_total", {"model": "icgan_preprocess"})]


def test_pictures_are_sent_away_while_the_encoder_has_not_answered_those_before(monkeypatch):
    model = load(monkeypatch, room=8)
    Behind.open.clear()
    one = {"PIXELS": np.zeros((1, 4, 4, 3), np.uint8), **scalars(1)}
    answers = [model.execute([Request(one)])[0] for _ in range(9)]
    assert [answer.error is None for answer in answers] == [True] * 8 + [False]
    Behind.open.set()
    model.encoder.close()  # waits for the probes
    assert model.execute([Request(one)])[0].error is None
