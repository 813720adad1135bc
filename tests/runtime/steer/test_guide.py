"""`Pipeline.guide` and `invert`: what a search finds that draws do not."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.marks.mark import read_marks
from icgan_runtime.origin.prove import NOT, PROVED, Queries, Verdict, prove
from icgan_runtime.origin.recover import Candidates
from icgan_runtime.steer.space import longest
from tests.picture_files import PHOTO
from tests.runtime.steer import graphs
from tests.runtime.steer.conftest import redness, unlike

OTHER = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
THIRD = np.random.default_rng(2).integers(0, 256, (8, 8, 3), np.uint8)
NOTHING = Candidates(range(1), range(1), 1.0)
SHORT = {"iterations": 30, "population": 8}


def test_a_search_finds_better_than_the_best_of_as_many_draws(local):
    found = local.guide(PHOTO, redness, **SHORT)
    draws = redness(local.generate(PHOTO, n=240).images)
    assert found.scores[0] > draws.max() + draws.std()
    assert found.history[0][-1] == found.scores[0]
    assert list(found.history[0]) == sorted(found.history[0])


def test_the_same_seed_finds_the_same_and_another_something_else(local):
    one, again = (local.guide([PHOTO, OTHER], redness, seed=5, **SHORT) for _ in range(2))
    np.testing.assert_array_equal(one.images, again.images)
    np.testing.assert_array_equal(one.noise, again.noise)
    other = local.guide([PHOTO, OTHER], redness, seed=6, **SHORT)
    assert not np.array_equal(one.noise, other.noise)


def test_a_server_finds_what_this_process_finds(local, remote):
    here, there = (pipe.guide([PHOTO, OTHER], redness, **SHORT) for pipe in (local, remote))
    assert abs(here.scores[0] - there.scores[0]) < 1
    assert np.abs(here.images.astype(int) - there.images).mean() < 4


def test_of_several_pictures_the_mixture_is_searched_too(local):
    single = [local.guide(picture, redness, **SHORT).scores[0] for picture in (PHOTO, OTHER, THIRD)]
    found = local.guide([PHOTO, local.embed(OTHER)[0], THIRD], redness, iterations=60, population=8)
    assert found.scores[0] > min(single)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, atol=1e-5)
    rows = local.guide(local.embed([PHOTO, OTHER, THIRD]), redness, iterations=60, population=8)
    np.testing.assert_array_equal(found.images, rows.images)


def test_several_images_are_of_several_searches_best_first(local):
    found = local.guide(PHOTO, redness, n=3, iterations=5, population=8)
    assert found.images.shape == (3, 8, 8, 3)
    assert list(found.scores) == sorted(found.scores, reverse=True)
    assert len(np.unique(found.noise, axis=0)) == 3


@pytest.mark.parametrize("truncation", [0.5, 1.0, None])
def test_nothing_is_searched_that_no_seed_draws(local, truncation):
    far = local.guide(PHOTO, redness, truncation=truncation, iterations=60, population=8).noise[0]
    if truncation is None:
        assert np.linalg.norm(far) <= longest(local.model.dim_z) + 1e-4
    else:
        assert np.abs(far).max() <= 2 * truncation


def test_progress_is_told_and_a_label_is_drawn(labelled):
    told: list[int] = []
    found = labelled.guide(
        PHOTO, redness, n=2, label=1, iterations=3, population=4, progress=lambda done, _: told.append(done)
    )
    assert told == [1, 2, 3, 4, 5, 6]
    assert found.request.label == 1
    with pytest.raises(RequestError, match="label: must be given"):
        labelled.guide(PHOTO, redness)


def test_a_picture_that_the_model_drew_is_found_again(local):
    drawn = local.generate(OTHER, seed=11).images[0]
    found = local.invert(drawn, among=[OTHER], iterations=80)
    draws = np.concatenate([local.generate(each, n=160, seed=1).images for each in (drawn, OTHER)])

    def distance(images):
        return np.abs(images.astype(float) - drawn).mean((1, 2, 3))

    assert distance(found.images)[0] < distance(draws).min()
    assert found.scores[0] <= 0


def test_a_network_of_the_users_sees_how_alike_images_are(local, tmp_path):
    file = graphs.means_of_pixels(tmp_path / "means.onnx")
    found = local.invert(THIRD, features=file, iterations=60, population=8)
    draws = local.generate(THIRD, n=480).images

    def distance(images):
        return np.square(images.mean((1, 2)) - THIRD.mean((0, 1))).sum(axis=1)

    assert distance(found.images)[0] < distance(draws).min()
    np.testing.assert_allclose(found.scores, -distance(found.images), rtol=1e-4)


def test_features_that_do_not_fit_are_refused(local, tmp_path):
    for features, message in (
        (7, "features: int, expected a function of images, or the path of an ONNX file"),
        (tmp_path / "none.onnx", "features: "),
        (graphs.mean_of_floats(tmp_path / "side.onnx", batch=2), "features: .*expected any number of images"),
        (lambda images: images[0], "features: gave .* for 1 images, expected \\[N, F\\] numbers"),
        (lambda images: "red", "features: gave .* for 1 images"),
    ):
        with pytest.raises(RequestError, match=message):
            local.invert(THIRD, features=features, iterations=1)


def test_what_was_found_is_proved_by_the_noise_in_its_file(local, tmp_path):
    found = local.guide([PHOTO, OTHER], redness, n=2, iterations=3, population=4)
    for file in (*found.save(tmp_path / "sheet.png"), *found.save(tmp_path / "folder")):
        data = file.read_bytes()
        verdict = prove(data, read_marks(data), local.chain, Queries(local.embed([PHOTO, OTHER])), NOTHING)
        assert (verdict.verdict, verdict.how) == (PROVED, "claimed noise")
    alone = local.guide(PHOTO, redness, iterations=3, population=4)
    (file,) = alone.save(tmp_path / "whole.jpg", embedding="whole")
    assert read_marks(file.read_bytes()).claim.embedding is not None
    (file,) = alone.save(tmp_path / "whole.png", embedding="whole")
    assert (
        prove(file.read_bytes(), read_marks(file.read_bytes()), local.chain, None, NOTHING).verdict == PROVED
    )
    with pytest.raises(RequestError, match="several pictures are followed"):
        found.save(tmp_path / "no.png", embedding="whole")


def test_a_false_claim_of_noise_is_called_false(local, tmp_path, monkeypatch):
    monkeypatch.setattr("icgan_runtime.origin.prove.find", lambda *_: Verdict(NOT, "search"))
    monkeypatch.setattr("icgan_runtime.origin.prove.Judge.best", unlike)
    found = local.guide(PHOTO, redness, iterations=3, population=4)
    other = local.guide(PHOTO, redness, seed=1, iterations=3, population=4)
    (file,) = found.save(tmp_path / "one.png")
    marks = read_marks(file.read_bytes())
    (lying,) = other.save(tmp_path / "other.png")
    verdict = prove(lying.read_bytes(), marks, local.chain, Queries(local.embed(PHOTO)), NOTHING)
    assert verdict.verdict == NOT
    assert any("the noise it names does not draw this picture" in note for note in verdict.notes)


def test_what_cannot_be_searched_is_refused(local, monkeypatch):
    for arguments, message in (
        ({"iterations": 0}, "iterations: 0, expected 1..100000"),
        ({"population": 3}, "population: 3, expected 4..1000 images"),
        ({"population": 1.5}, "population: 1.5, expected a whole number"),
        ({"n": 0}, "n: 0, expected 1..10000"),
    ):
        with pytest.raises(RequestError) as caught:
            local.guide(PHOTO, redness, **arguments)
        assert message in str(caught.value)
    with pytest.raises(RequestError, match="pictures: none given"):
        local.guide([], redness)
    monkeypatch.setitem(sys.modules, "cmaes", None)
    monkeypatch.delitem(sys.modules, "icgan_runtime.steer.evolution")
    monkeypatch.delattr("icgan_runtime.steer.evolution")
    with pytest.raises(MissingExtraError, match=r"cmaes is not installed: pip install 'icgan\[steer\]'"):
        local.guide(PHOTO, redness)
