"""The stage before the one that decodes: who may come in, decided while that one is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from icgan_runtime import images
from icgan_runtime.refusals import no_room
from icgan_runtime.server.photos import LARGE
from tests.triton.stages import Behind, Error, Family, Request, load_stage
from tests.triton.test_icgan import png


@pytest.fixture
def stage(monkeypatch) -> Iterator[Any]:
    """The stage before one decoder, for which three large photos may wait; probes come back at once."""
    model = load_stage("icgan_admit", monkeypatch).TritonPythonModel()
    settings = {"size": 4, "classes": 0, "decoders": 1, "max_queue": 36}
    parameters = {name: {"string_value": str(value)} for name, value in settings.items()}
    model.initialize({"model_config": json.dumps({"parameters": parameters}), "model_repository": "x"})
    yield model
    Behind.open.set()
    model.decoding.close()


def photo(number: int) -> bytes:
    """No picture, but as long as a large one."""
    return number.to_bytes(8, "little").ljust(LARGE, b"x")


def ask(stage: Any, *files: bytes) -> Any:
    (answer,) = stage.execute([Request({"IMAGE": np.array(files, object)[:, None]})])
    return answer


def test_photos_are_handed_on_as_they_are(stage):
    answer = ask(stage, photo(0), b"", photo(1))
    assert answer.error is None
    assert answer.found["IMAGE"][:, 0].tolist() == [photo(0), b"", photo(1)]


def test_while_those_before_are_being_decoded_a_further_photo_is_refused_at_once(stage):
    Behind.open.clear()  # the stage behind is away
    assert [ask(stage, photo(number)).error for number in range(3)] == [None] * 3
    answer = ask(stage, photo(3))
    assert answer.error.args == (no_room("icgan_preprocess"), Error.UNAVAILABLE)
    assert Family.counted == [("icgan_shed_total", {"model": "icgan_preprocess"})]


def test_when_they_are_decoded_photos_come_in_again(stage):
    Behind.open.clear()
    for number in range(4):
        ask(stage, photo(number))
    Behind.open.set()
    stage.decoding.close()  # all have come back
    assert stage.decoding.has_room


def test_what_the_stage_behind_has_done_makes_room_though_it_is_still_away(stage):
    Behind.open.clear()
    for number in range(4):
        ask(stage, photo(number))
    stage.decoding._marks.done(1)  # as icgan_preprocess says, whose marks these are
    assert ask(stage, photo(4)).error is None
    assert ask(stage, photo(5)).error is not None


def test_a_picture_of_our_own_client_finds_room_whatever_is_being_decoded(stage):
    Behind.open.clear()
    for number in range(4):
        ask(stage, photo(number))
    prepared = images.encode(np.zeros((4, 4, 3), np.uint8), "BMP")
    assert ask(stage, prepared, b"").error is None


def test_small_photos_count_for_less_and_the_same_one_once(stage):
    Behind.open.clear()
    for number in range(5):
        assert ask(stage, *[png(number)] * 8).error is None, "an eighth of a large one"


def test_what_the_encoder_has_to_do_is_looked_at_too(stage):
    with stage.encoding.held() as marks:  # as icgan_preprocess does
        marks[0] += 48
    answer = ask(stage, images.encode(np.zeros((4, 4, 3), np.uint8), "BMP"))
    assert answer.error.args == (no_room("icgan_encoder"), Error.UNAVAILABLE)
    assert Family.counted == [("icgan_shed_total", {"model": "icgan_encoder"})]
