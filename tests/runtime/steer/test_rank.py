"""`Pipeline.rank`: the best of many samples of a seed."""

from __future__ import annotations

import numpy as np
import pytest

from icgan_runtime.errors import RequestError
from icgan_runtime.images import pixels
from icgan_runtime.marks.mark import read_marks
from icgan_runtime.origin.prove import PROVED, Queries, prove
from icgan_runtime.origin.recover import Candidates
from tests.picture_files import PHOTO
from tests.runtime.steer import graphs
from tests.runtime.steer.conftest import redness

NOTHING = Candidates(range(1), range(1), 1.0)


def test_the_best_of_many_are_samples_of_the_seed_best_first(local):
    best = local.rank(PHOTO, redness, n=5, of=70, seed=3, truncation=0.8)
    drawn = local.generate(PHOTO, n=70, seed=3, truncation=0.8)
    order = np.argsort(-redness(drawn.images), kind="stable")[:5]
    assert best.samples.tolist() == order.tolist()
    np.testing.assert_array_equal(best.images, drawn.images[order])
    np.testing.assert_allclose(best.scores, redness(drawn.images[order]))


def test_of_equal_scores_the_earlier_samples_are_kept(local):
    assert local.rank(PHOTO, lambda images: np.zeros(len(images)), n=3, of=40).samples.tolist() == [0, 1, 2]


def test_a_file_ranks_as_its_function_does_and_an_embedding_as_its_picture(local, tmp_path):
    file = graphs.redness_of_pixels(tmp_path / "red.onnx")
    expected = local.rank(PHOTO, redness).samples
    for query in (PHOTO, local.embed(PHOTO), local.embed(PHOTO)[0]):
        np.testing.assert_array_equal(local.rank(query, str(file)).samples, expected)


def test_a_server_ranks_as_this_process_does(local, remote):
    here, there = (pipe.rank(PHOTO, redness, n=3, of=20, condition="sample") for pipe in (local, remote))
    np.testing.assert_array_equal(here.images, there.images)
    np.testing.assert_array_equal(here.samples, there.samples)


@pytest.mark.parametrize("name", ["best.png", "best.webp"])
def test_a_sheet_of_the_best_is_proved_and_so_is_each_file_of_a_folder(local, tmp_path, name):
    best = local.rank(PHOTO, redness, n=4, of=50, seed=7)
    files = [*best.save(tmp_path / name), *best.save(tmp_path / "folder")]
    assert [file.name for file in files[1:]] == [f"{sample:05}.png" for sample in best.samples]
    for file in files:
        data = file.read_bytes()
        marks = read_marks(data)
        verdict = prove(data, marks, local.chain, Queries(local.embed(PHOTO)), NOTHING)
        assert (verdict.verdict, verdict.how, verdict.seed) == (PROVED, "claim", 7)
    np.testing.assert_array_equal(pixels(files[1].read_bytes()), best.images[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 8, "of": 4}, "of: 4, expected 8..10000, of which 8 are kept"),
        ({"of": 2.5}, "of: 2.5, expected a whole number"),
        ({"of": 10_001}, "of: 10001, expected 4..10000"),
        ({"n": 0}, "n: 0, expected 1..10000 images"),
    ],
)
def test_what_cannot_be_ranked_is_refused(local, arguments, message):
    with pytest.raises(RequestError) as caught:
        local.rank(PHOTO, redness, **arguments)
    assert message in str(caught.value)
    with pytest.raises(RequestError, match="2 rows, expected one"):
        local.rank(local.embed([PHOTO, PHOTO]), redness)
