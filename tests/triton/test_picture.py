"""The stage that writes files: what they say of their origin, signed where the server has a key."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import numpy as np
import pytest

from icgan_runtime.marks.claim import Source
from icgan_runtime.marks.mark import KEY_VARIABLE, read_marks
from tests.triton.stages import Family, Request, load_stage

SOURCE = Source("tiny", "1", "0" * 64, bank="1" * 64, backend="triton")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
ROWS = {
    "SEED": np.array([[5], [6]]),
    "SAMPLE": np.array([[0], [9]]),
    "TRUNCATION": np.array([[0.5], [np.inf]], np.float32),
    "CONDITION": np.array([[0], [2]], np.int32),
}
SETTINGS = {"classes": 0, "max_rows": 4, "threads": 1, "max_queue": 8}
PARAMETERS = {name: {"string_value": str(value)} for name, value in SETTINGS.items()}
FILES = {"GENERATED": PIXELS, "FORMAT": np.array([[b"image/png"]] * 2, object)}


@pytest.fixture
def answer(monkeypatch, tmp_path):
    """Starts the stage, with a signing key if given; returns what it answers to inputs."""

    monkeypatch.setattr(os, "nice", lambda increment: 0)

    def ask(inputs, key=None):
        if key is None:
            monkeypatch.delenv(KEY_VARIABLE, raising=False)
        else:
            monkeypatch.setenv(KEY_VARIABLE, str(key))
        (tmp_path / "1").mkdir(exist_ok=True)
        (tmp_path / "1" / "source.json").write_text(json.dumps(asdict(SOURCE)))
        stage = load_stage("icgan_picture", monkeypatch).TritonPythonModel()
        config = json.dumps({"parameters": PARAMETERS})
        stage.initialize({"model_repository": str(tmp_path), "model_version": "1", "model_config": config})
        (answered,) = stage.execute([Request(inputs)])
        before = len(Family.alive)
        stage.finalize()
        del stage
        assert len(Family.alive) == before > 0, "other processes count on with them"
        return answered

    return ask


def test_each_file_claims_its_own_row(answer):
    files = answer(FILES | ROWS).found["PICTURE"][:, 0]
    claims = [read_marks(file).claim for file in files]
    assert [(claim.seed, claim.first, claim.n) for claim in claims] == [(5, 0, 1), (6, 9, 1)]
    assert [claim.truncation for claim in claims] == [0.5, None]
    assert [claim.condition for claim in claims] == ["query", "sample"]
    assert {claim.source for claim in claims} == {SOURCE}


def test_files_are_signed_where_the_server_has_a_key(answer, tmp_path):
    pytest.importorskip("c2pa")
    from tests.runtime.marks.certificates import write_signer

    key, authority = write_signer(tmp_path)
    files = answer(FILES | ROWS, key).found["PICTURE"][:, 0]
    for file, seed in zip(files, (5, 6), strict=True):
        marks = read_marks(file, authority)
        assert marks.signature is not None
        assert (marks.signature["state"], marks.claim.seed) == ("Trusted", seed)


def test_a_key_that_cannot_sign_ends_the_start(answer, tmp_path):
    pytest.importorskip("c2pa")
    from icgan_runtime.errors import RequestError
    from tests.runtime.marks.certificates import write_signer

    with pytest.raises(RequestError, match="valid from"):
        answer(FILES | ROWS, write_signer(tmp_path, days=-1)[0])


def test_pixels_alone_are_said_to_be_generated_and_no_more(answer):
    marks = read_marks(answer(FILES).found["PICTURE"][0, 0])
    assert (marks.generated, marks.claim) == (True, None)


def test_rows_of_other_pictures_are_refused(answer):
    short = {name: rows[:1] for name, rows in ROWS.items()}
    assert "1 rows of 2 images" in str(answer(FILES | short).error)
