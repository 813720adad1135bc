"""`Pipeline.interpolate`: a path whose ends are what the seeds draw."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import WebPImagePlugin

from icgan_runtime.errors import RequestError
from icgan_runtime.images import pixels
from icgan_runtime.marks.mark import read_marks
from icgan_runtime.origin.prove import PROVED, Queries, check_claim, prove
from icgan_runtime.origin.recover import Candidates
from tests.picture_files import PHOTO
from tests.runtime.steer.conftest import unlike

OTHER = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
NOTHING = Candidates(range(1), range(1), 1.0)


@pytest.mark.parametrize("truncation", [0.6, None])
def test_the_ends_are_what_the_seeds_draw_of_the_pictures(local, truncation):
    path = local.interpolate(PHOTO, OTHER, frames=9, seed=4, end_seed=5, truncation=truncation)
    first = local.generate(PHOTO, seed=4, truncation=truncation).images[0]
    last = local.generate(OTHER, seed=5, truncation=truncation).images[0]
    for image, end in ((path.images[0], first), (path.images[-1], last)):
        assert np.abs(image.astype(int) - end).max() <= 1  # batches of 9 and 1 may differ by a grey level
    steps = np.abs(np.diff(path.images.astype(float), axis=0)).mean((1, 2, 3))
    assert steps.max() < np.abs(first.astype(float) - last).mean() / 2, "no step is half the way"


def test_noise_on_the_way_is_as_long_as_noise_of_seeds_and_within_the_truncation(local):
    noise = local.interpolate(PHOTO, frames=11, end_seed=9, truncation=0.5).noise
    lengths = np.linalg.norm(noise, axis=1)
    assert lengths.min() > 0.8 * min(lengths[0], lengths[-1])
    assert np.abs(noise).max() <= 1


def test_a_server_draws_the_path_that_this_process_draws(local, remote):
    here, there = (pipe.interpolate(PHOTO, OTHER, frames=6, end_seed=2) for pipe in (local, remote))
    assert np.abs(here.images.astype(int) - there.images).max() <= 1
    np.testing.assert_array_equal(here.noise, there.noise)


def test_a_label_says_what_is_drawn_all_the_way(labelled):
    path = labelled.interpolate(PHOTO, end_seed=1, label=2, frames=3)
    drawn = labelled.generate(PHOTO, label=2).images[0]
    assert np.abs(path.images[0].astype(int) - drawn).max() <= 1
    with pytest.raises(RequestError, match="label: must be given"):
        labelled.interpolate(PHOTO, end_seed=1)


def test_a_film_shows_every_image_and_proves_its_first(local, tmp_path):
    path = local.interpolate(PHOTO, OTHER, frames=5)
    file = path.animate(tmp_path / "path.webp", frame_ms=100)
    with WebPImagePlugin.WebPImageFile(file) as film:
        assert (film.n_frames, film.info["loop"]) == (5, 0)
        for number, image in enumerate(path.images):
            film.seek(number)
            np.testing.assert_array_equal(np.asarray(film.convert("RGB")), image)
    data = file.read_bytes()
    assert read_marks(data).generated
    queries = Queries(local.embed([PHOTO, OTHER]))
    verdict = prove(data, read_marks(data), local.chain, queries, NOTHING)
    assert (verdict.verdict, verdict.how, verdict.seed) == (PROVED, "claimed noise", None)


def test_a_sheet_of_the_path_is_proved_by_the_pictures_in_their_order_alone(local, tmp_path, monkeypatch):
    monkeypatch.setattr("icgan_runtime.origin.prove.Judge.best", unlike)
    (file,) = local.interpolate(PHOTO, OTHER, frames=5).save(tmp_path / "path.png")
    data = file.read_bytes()
    claim = read_marks(data).claim
    assert claim is not None
    right, wrong = (Queries(local.embed(each)) for each in ([PHOTO, OTHER], [OTHER, PHOTO]))
    assert check_claim(pixels(data), claim, local.chain, right).verdict == PROVED
    assert check_claim(pixels(data), claim, local.chain, wrong) is None
    with pytest.raises(RequestError, match="this one follows a mixture of 2: give as many pictures"):
        prove(data, read_marks(data), local.chain, Queries(local.embed(PHOTO)), NOTHING)


def test_a_path_that_leads_nowhere_is_refused(local, tmp_path):
    for arguments, message in (
        ({}, "end: missing; give another picture, or another end_seed"),
        ({"end_seed": 1, "frames": 1}, "frames: 1, expected 2..1000"),
        ({"end_seed": -1}, "seed: -1, expected 0..2^63-1"),
        ({"end": 3}, "picture: an int, expected a path"),
    ):
        with pytest.raises(RequestError) as caught:
            local.interpolate(PHOTO, **arguments)
        assert message in str(caught.value)
    path = local.interpolate(PHOTO, end_seed=1, frames=2)
    with pytest.raises(RequestError, match=r"expected a name ending in \.webp: other formats hold no film"):
        path.animate(tmp_path / "a.png")
    with pytest.raises(RequestError, match="frame_ms: 0, expected"):
        path.animate(tmp_path / "a.webp", frame_ms=0)
