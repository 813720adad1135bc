"""The stage that searches and conditions, in this process: batches put strangers' requests side by side."""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icgan_runtime.rows import OWN_LABEL, Rows
from icgan_runtime.search.choose import choose_search
from tests.triton.stages import Behind, Error, Family, Request, load_stage

pytest.importorskip("faiss")

Inputs = dict[str, Any]
EVERYTHING = ("noise", "conditioning", "EMBEDDING", "NEIGHBOUR_IDS", "NEIGHBOUR_SCORES", "NEIGHBOUR_LABELS")


@pytest.fixture
def load(tiny_bundle, tmp_path, monkeypatch) -> Callable[..., Any]:
    """Returns a function that loads the stage with a search, for requests of up to four rows."""
    shutil.copytree(tiny_bundle, tmp_path / "1")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def load(search: str, room: int = 1000, processes: int = 1, bundle: Path | None = None) -> Any:
        if bundle is not None:
            shutil.rmtree(tmp_path / "1")
            shutil.copytree(bundle, tmp_path / "1")
        model = load_stage("icgan_condition", monkeypatch).TritonPythonModel()
        settings = {"search": search, "max_rows": "4", "max_queue": str(room)}
        config = {
            "parameters": {name: {"string_value": value} for name, value in settings.items()},
            "instance_group": [{"count": processes}],
        }
        model.initialize(
            {"model_repository": tmp_path, "model_version": "1", "model_config": json.dumps(config)}
        )
        return model

    return load


def scalars(n: int, **changes: Any) -> Inputs:
    """What n rows ask."""
    plain = {
        "SEED": np.zeros((n, 1), np.int64),
        "SAMPLE": np.arange(n)[:, None],
        "TRUNCATION": np.ones((n, 1), np.float32),
        "CONDITION": np.zeros((n, 1), np.int32),
    }
    return plain | changes


def packed(picture: list[int], pictures: int, **changes: Any) -> np.ndarray:
    """The same as the stage before hands it on, for rows that show these of `pictures`."""
    columns = {name.lower(): column[:, 0] for name, column in scalars(len(picture), **changes).items()}
    return np.array(Rows(**columns, label=None).pack(np.array(picture), pictures), dtype=object)[:, None]


def execute(model: Any, *requests: Inputs, wanted: tuple[str, ...] = EVERYTHING) -> list[Any]:
    return model.execute([Request(inputs, wanted) for inputs in requests])


@pytest.mark.parametrize("search", ["numpy", "graph"])
def test_rows_of_zeros_follow_instances_of_the_prior_with_their_labels_and_neighbours(
    load, labelled_bundle, search
):
    model = load(search, bundle=labelled_bundle)
    given = np.zeros((4, 12), np.float32)
    given[1] = model.bank.embeddings[3]
    asked = scalars(
        4, CONDITION=np.ones((4, 1), np.int32), LABEL=np.array([[OWN_LABEL], [0], [2], [OWN_LABEL]])
    )
    found = {"ids": np.tile(np.arange(5), (4, 1)), "scores": np.zeros((4, 5), np.float32)}
    if search == "numpy":
        found = {}
    [answer] = execute(model, {"embedding": given, **found, **asked}, wanted=(*EVERYTHING, "label"))
    assert answer.error is None, answer.error
    drawn, labels = model.prior.instances(np.zeros(4, np.int64), np.arange(4))
    followed = answer.found["EMBEDDING"]
    np.testing.assert_array_equal(followed[[0, 2, 3]], drawn[[0, 2, 3]])
    np.testing.assert_array_equal(followed[1], given[1])
    assert answer.found["label"][:, 0].tolist() == [labels[0], 0, 2, labels[3]]
    nearest = (drawn @ model.bank.embeddings.T).argmax(axis=1)
    own = [0, 2, 3]
    assert answer.found["NEIGHBOUR_IDS"][own, 0].tolist() == nearest[own].tolist()
    np.testing.assert_array_equal(answer.found["conditioning"][own], model.bank.embeddings[nearest[own]])


@pytest.mark.parametrize("search", ["numpy", "faiss", "faiss-ivf"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25, 0, 2])
def test_an_embedding_that_is_none_is_refused_and_those_beside_it_are_answered(load, search, value):
    model = load(search)
    stored = model.bank.embeddings
    bad = stored[2:4].copy()
    bad[1] = value
    requests = [
        {"embedding": stored[:2], **scalars(2)},
        {"embedding": bad, **scalars(2)},
        {"embedding": stored[5:6], **scalars(1)},
    ]
    first, refused, last = execute(model, *requests)
    assert refused.error.args[0].startswith("EMBEDDING: ")
    assert refused.error.args[1] == Error.INVALID_ARG
    assert Family.counted == [("icgan_refused_total", {"field": "embedding"})]
    assert len(Family.observed) == 3, "a metric that saw NaN would be spoilt for good"
    for part, answer in ((stored[:2], first), (stored[5:6], last)):
        ids, scores = choose_search(model.bank, search)(part, model.k)
        assert answer.error is None
        np.testing.assert_array_equal(answer.found["NEIGHBOUR_IDS"], ids)
        np.testing.assert_array_equal(answer.found["NEIGHBOUR_SCORES"], scores)
    assert [answer.error is None for answer in execute(model, requests[1])] == [False]


def test_requests_that_share_a_batch_get_what_they_would_get_alone(load):
    model = load("faiss")
    stored = model.bank.embeddings
    requests = [
        {
            "embedding": stored[:2],
            "rows": packed([1, 0, 1], 2, CONDITION=np.array([[2], [1], [0]], np.int32)),
        },
        {"embedding": stored[3:4], "rows": packed([0, 0], 1, SEED=np.array([[5], [6]]))},
        {"embedding": stored[7:10], **scalars(3)},
    ]
    for together, request in zip(execute(model, *requests), requests, strict=True):
        (alone,) = execute(model, request)
        assert set(together.found) == set(EVERYTHING)
        for name, array in alone.found.items():
            np.testing.assert_array_equal(together.found[name], array)
    (first, *_) = execute(model, *requests)
    np.testing.assert_array_equal(first.found["EMBEDDING"], stored[[1, 0, 1]])


def test_only_the_outputs_that_are_asked_for_are_made(load, monkeypatch):
    model = load("faiss")
    monkeypatch.setattr(Rows, "noise", lambda *_: pytest.fail("noise that nobody asked for"))
    (answer,) = execute(
        model, {"embedding": model.bank.embeddings[:1], **scalars(1)}, wanted=("NEIGHBOUR_IDS",)
    )
    assert set(answer.found) == {"NEIGHBOUR_IDS"}


def test_the_scores_of_a_request_are_counted_once_for_each_picture(load):
    model = load("faiss")
    execute(model, {"embedding": model.bank.embeddings[:2], "rows": packed([0, 0, 1, 1], 2)})
    np.testing.assert_allclose(Family.observed, [1, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": np.array([[b"five"]], dtype=object)}, "ROWS: not records of 40 bytes"),
        ({"rows": np.array([[bytes(80)]], dtype=object)}, "ROWS: not each place"),
        ({"rows": packed([0] * 5, 1)}, "SEED: 5 rows, 1..4 are taken"),
        ({"rows": packed([0], 1, SEED=np.array([[-1]]))}, "SEED: -1"),
        ({"embedding": np.ones(12, np.float32)}, "EMBEDDING: [12], expected rows"),
    ],
)
def test_a_request_that_does_not_fit_together_is_refused_by_name_and_not_counted(load, change, words):
    model = load("faiss")
    good = {"embedding": model.bank.embeddings[:1], "rows": packed([0], 1)}
    (refused,) = execute(model, {**good, **change})
    assert refused.error.args[0].startswith(words)
    assert refused.error.args[1] == Error.INVALID_ARG
    assert Family.observed == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": np.full((2, 3), np.nan, np.float32)}, "SCORES: a number that is not finite"),
        ({"ids": np.full((2, 3), 999)}, "IDS: an instance that is not in the bank"),
        ({"ids": np.zeros(3, np.int64)}, "IDS: [3] and [2, 3], expected rows"),
    ],
)
def test_neighbours_of_the_graph_are_taken_as_they_come_and_checked(load, change, words):
    model = load("graph")
    good = {
        "embedding": model.bank.embeddings[:2],
        "ids": np.array([[4, 2, 0], [1, 3, 5]]),
        "scores": np.full((2, 3), 0.5, np.float32),
        "rows": packed([1, 1, 0], 2),
    }
    answer, refused = execute(model, good, {**good, **change})
    np.testing.assert_array_equal(answer.found["NEIGHBOUR_IDS"], good["ids"][[1, 1, 0]])
    assert refused.error.args[0].startswith(words)
    assert Family.observed == [0.5, 0.5]


def shed(answers: list[Any]) -> list[bool]:
    return [answer.error is not None and answer.error.args[1] == Error.UNAVAILABLE for answer in answers]


def test_what_is_too_much_for_the_generator_is_sent_away_until_it_has_answered(load):
    model = load("faiss", room=8)
    Behind.open.clear()
    one = {"embedding": model.bank.embeddings[:1], **scalars(1)}
    answers = execute(model, *[one] * 6) + execute(model, *[one] * 6)
    assert shed(answers) == [False] * 8 + [True] * 4
    assert ("icgan_shed_total", {"model": "icgan_generator"}) in Family.counted
    assert shed(execute(model, one, wanted=("NEIGHBOUR_IDS",))) == [False], "it does not draw"
    Behind.open.set()
    model.generator.close()  # waits for the probes
    assert shed(execute(model, one)) == [False]


def test_a_stage_that_ends_frees_no_metric_for_other_processes_count_on_with_them(load):
    model = load("faiss")
    execute(model, {"embedding": model.bank.embeddings[:1], **scalars(1)})
    before = len(Family.alive)
    model.finalize()
    del model
    gc.collect()
    assert len(Family.alive) == before > 0


def test_a_full_request_takes_the_room_of_six(load):
    model = load("faiss", room=12)
    Behind.open.clear()
    full = {"embedding": model.bank.embeddings[:4], **scalars(4)}
    assert shed(execute(model, full, full, full)) == [False, False, True]
    Behind.open.set()


def test_processes_that_draw_with_one_generator_share_its_room(load):
    one_of_two, other = load("faiss", room=8, processes=2), load("faiss", room=8, processes=2)
    Behind.open.clear()
    one = {"embedding": one_of_two.bank.embeddings[:1], **scalars(1)}
    assert shed(execute(one_of_two, *[one] * 3)) == [False] * 3
    assert shed(execute(other, *[one] * 6)) == [False] * 5 + [True]
    assert shed(execute(one_of_two, one)) == [True]
    Behind.open.set()
    other.generator.close()  # its probes stood behind the requests of both
    assert shed(execute(one_of_two, *[one] * 7)) == [False] * 7


def test_a_batch_of_all_that_waits_keeps_to_the_room_even_where_nothing_is_drawn(load):
    model = load("faiss", room=8)
    one = {"embedding": model.bank.embeddings[:1], **scalars(1)}
    assert shed(execute(model, *[one] * 10, wanted=("NEIGHBOUR_IDS",))) == [False] * 8 + [True] * 2
