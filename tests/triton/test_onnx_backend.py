"""The backend that runs ONNX files in the embedded server: what requests that wait together share."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.triton.stages import Family, Request, load_stage

CONFIG = {
    "name": "icgan_encoder",
    "input": [{"name": "image"}],
    "output": [{"name": "embedding"}],
    "max_batch_size": 8,
    "default_model_filename": "",
}


@pytest.fixture
def backend(monkeypatch) -> ModuleType:
    return load_stage("backends/onnxruntime/model.py", monkeypatch)


def load(backend: ModuleType, ran: list[np.ndarray], **parameters: str) -> Any:
    """The backend with a graph that doubles its rows, and leaves what it was given in `ran`."""

    def graph(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        ran.append(feed["image"])
        return [2 * feed["image"]]

    vars(backend)["_onnxruntime"] = lambda *_: graph
    model = backend.TritonPythonModel()
    settings = {name: {"string_value": value} for name, value in parameters.items()}
    config = json.dumps({**CONFIG, "parameters": settings})
    model.initialize({"model_config": config, "model_repository": "x", "model_version": "1"})
    return model


def ask(model: Any, *requests: list[int]) -> list[list[int]]:
    """What comes back for requests of some rows of one number each."""
    answers = model.execute([Request({"image": np.array(rows)[:, None]}) for rows in requests])
    return [answer.found["embedding"][:, 0].tolist() for answer in answers]


def test_a_picture_of_several_clients_that_wait_together_runs_once(backend):
    ran: list[np.ndarray] = []
    model = load(backend, ran, equal_rows_once="true")
    assert ask(model, [7], [5, 7], [7], [6]) == [[14], [10, 14], [14], [12]]
    assert [rows[:, 0].tolist() for rows in ran] == [[7, 5, 6]]
    assert Family.counted == [("icgan_shared_rows_total", {"model": "icgan_encoder"})]


def test_where_nobody_asks_for_it_equal_rows_are_not_looked_for(backend):
    ran: list[np.ndarray] = []
    assert ask(load(backend, ran), [7], [7]) == [[14], [14]]
    assert [len(rows) for rows in ran] == [2]
    assert Family.counted == []


def test_rows_that_differ_in_one_input_are_different_ones(backend):
    first, place = backend.distinct_rows([np.array([1, 1, 1]), np.array([[2], [3], [2]])])
    assert (first, place) == ([0, 1], [0, 1, 0])


def test_a_lone_request_is_run_as_it_is(backend):
    ran: list[np.ndarray] = []
    assert ask(load(backend, ran, equal_rows_once="true"), [7, 7]) == [[14, 14]]
    assert len(ran[0]) == 2


def test_threads_wait_for_each_other_for_a_moment_only(backend, monkeypatch):
    """By default for a millisecond: on cores that other stages want, that took half of them."""
    said: dict[str, str] = {}
    options = SimpleNamespace(add_session_config_entry=said.__setitem__)
    library = SimpleNamespace(SessionOptions=lambda: options, InferenceSession=lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    backend._onnxruntime("graph.onnx", 3, ["embedding"])
    assert options.intra_op_num_threads == 3
    assert said["session.intra_op.spin_duration_us"] == "20"
    assert said["session.force_spinning_stop"] == "1"
