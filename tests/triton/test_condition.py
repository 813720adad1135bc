"""The stage that conditions, in this process: it can be called on its own, past what the others check."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest

from tests.triton.stages import Error, Family, load_stage

Inputs = dict[str, Any]


@pytest.fixture
def model(tiny_bundle, tmp_path, monkeypatch) -> Any:
    stage = load_stage("icgan_condition", monkeypatch)
    shutil.copytree(tiny_bundle, tmp_path / "1")
    config = json.dumps({"parameters": {"max_rows": {"string_value": "4"}}})
    found = stage.TritonPythonModel()
    found.initialize({"model_repository": tmp_path, "model_version": "1", "model_config": config})
    return found


def inputs(model: Any, pictures: int, rows: int) -> Inputs:
    """A sound request, but for their numbers."""
    return {
        "embedding": np.repeat(model.bank.embeddings[:1], pictures, axis=0),
        "ids": np.repeat(model.bank.ids[:3][None], pictures, axis=0),
        "scores": np.ones((pictures, 3), np.float32),
        "SEED": np.zeros((rows, 1), np.int64),
        "SAMPLE": np.zeros((rows, 1), np.int64),
        "TRUNCATION": np.ones((rows, 1), np.float32),
        "CONDITION": np.zeros((rows, 1), np.int32),
        "ROW": np.zeros((rows, 1), np.int64),
    }


def answer(model: Any, request: Inputs) -> Any:
    (found,) = model.execute([request])
    return found


def test_the_scores_of_a_good_request_are_counted_once_for_each_picture(model):
    assert answer(model, inputs(model, 2, 4)).found["NEIGHBOUR_IDS"].shape == (4, 3)
    assert Family.observed == [1, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": np.full((2, 3), np.nan, np.float32)}, "SCORES: a number that is not finite"),
        ({"scores": np.ones((1000, 3), np.float32)}, "IDS: 2 and 1000 scores for 2 pictures"),
        ({"scores": np.ones((1, 3), np.float32)}, "IDS: 2 and 1 scores for 2 pictures"),
        ({"ids": np.zeros((1, 3), np.int64)}, "IDS: 1 and 2 scores for 2 pictures"),
        ({"ROW": np.zeros((0, 1), np.int64), "SEED": np.zeros((0, 1), np.int64)}, "SEED: 0 rows"),
    ],
)
def test_a_request_that_does_not_fit_together_is_refused_by_name_and_not_counted(model, change, words):
    refused = answer(model, {**inputs(model, 2, 4), **change})
    assert refused.error.args[0].startswith(words)
    assert refused.error.args[1] == Error.INVALID_ARG
    assert Family.observed == []


def test_more_pictures_than_a_batch_has_rows_are_refused(model):
    assert answer(model, inputs(model, 5, 4)).error.args[0] == "EMBEDDING: 5 rows, at most 4 are taken"
    assert Family.observed == []
