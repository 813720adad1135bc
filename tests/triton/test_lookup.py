"""The stage that searches, in this process: the server's batches put strangers' requests side by side."""

from __future__ import annotations

import json
import shutil
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.search.choose import choose_search
from tests.triton.stages import Error, load_stage

pytest.importorskip("faiss")


@pytest.fixture
def stage(monkeypatch) -> ModuleType:
    return load_stage("icgan_lookup", monkeypatch)


@pytest.mark.parametrize("search", ["numpy", "faiss", "faiss-ivf"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25, 0, 2])
def test_an_embedding_that_is_none_is_refused_and_those_beside_it_are_answered(
    stage, tiny_bundle, tmp_path, search, value
):
    shutil.copytree(tiny_bundle, tmp_path / "1")
    config = json.dumps({"parameters": {"search": {"string_value": search}}})
    model = stage.TritonPythonModel()
    model.initialize({"model_repository": tmp_path, "model_version": "1", "model_config": config})
    bank = Bank.of_bundle(Bundle.open(tiny_bundle))
    good = [bank.embeddings[:2], bank.embeddings[5:6]]
    bad = bank.embeddings[2:4].copy()
    bad[1] = value

    def execute(*parts: np.ndarray) -> list[Any]:
        answers: list[Any] = model.execute([{"embedding": part} for part in parts])
        return answers

    first, refused, last = execute(good[0], bad, good[1])
    assert refused.error.args[0].startswith("EMBEDDING: ")
    assert refused.error.args[1] == Error.INVALID_ARG
    for part, answer in zip(good, (first, last), strict=True):
        ids, scores = choose_search(bank, search)(part, model.k)
        assert answer.error is None
        np.testing.assert_array_equal(answer.found["ids"], ids)
        np.testing.assert_array_equal(answer.found["scores"], scores)
    assert [answer.error is None for answer in execute(bad)] == [False]
