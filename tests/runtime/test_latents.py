import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icgan_runtime import latents
from tests.golden import make_noise

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "noise.json").read_text())

seeds = st.integers(0, latents.MAX_SEED)
truncations = st.floats(2**-20, 1, width=32)


@pytest.fixture(params=GOLDEN, ids=lambda case: f"seed {case['seed']} sample {case['sample']}")
def case(request):
    return request.param


def test_words_equal_the_golden_vectors(case):
    (words,) = latents.philox_words(int(case["seed"]), int(case["sample"]), len(case["words"]))
    assert [f"{word:016x}" for word in words] == case["words"]


def test_uniforms_equal_the_golden_vectors(case):
    words = np.array([int(word, 16) for word in case["words"]], np.uint64)
    assert latents.uniforms(words).tolist() == case["u"]


def test_gaussians_are_within_1e_12_of_the_golden_vectors(case):
    truncation = math.inf if case["truncation"] is None else case["truncation"]
    z = latents.gaussians(np.array([case["u"]]), np.array([truncation], np.float32))
    np.testing.assert_allclose(z[0], case["z"], rtol=0, atol=1e-12)


def test_noise_is_the_golden_vector_in_float32(case):
    truncation = math.inf if case["truncation"] is None else case["truncation"]
    z = latents.noise(int(case["seed"]), int(case["sample"]), truncation, len(case["z"]))
    assert z.dtype == np.float32
    assert z.shape == (1, len(case["z"]))
    np.testing.assert_allclose(z[0], np.array(case["z"], np.float32), rtol=2e-7)


def test_draws_equal_the_golden_vectors(case):
    for k, rank in case["draw_rank"].items():
        assert latents.draw_ranks(int(case["seed"]), int(case["sample"]), int(k)).tolist() == [rank]


@settings(max_examples=50)
@given(seeds, seeds, st.none() | truncations)
def test_any_seed_sample_and_truncation_gives_what_plain_integers_and_forty_digits_give(seed, sample, t):
    with mpmath.workdps(40):
        expected = make_noise.case(seed, sample, t)
    z = latents.noise(seed, sample, np.inf if t is None else t, make_noise.WIDTH)[0]
    np.testing.assert_allclose(z, np.array(expected["z"], np.float32), rtol=2e-7, atol=1e-12)
    ranks = {k: str(latents.draw_ranks(seed, sample, int(k))[0]) for k in expected["draw_rank"]}
    assert ranks == {k: str(rank) for k, rank in expected["draw_rank"].items()}


def test_the_largest_word_does_not_become_infinite_noise():
    top = latents.uniforms(np.array([2**64 - 1, 0], np.uint64))
    assert top[0] < 1
    assert np.isfinite(latents.gaussians(top[None], np.array([np.inf], np.float32))).all()


@given(seeds, st.lists(st.integers(0, latents.MAX_SEED), min_size=1, max_size=6), truncations)
def test_a_row_does_not_depend_on_its_batch(seed, samples, truncation):
    together = latents.noise(seed, samples, truncation, 5)
    alone = [latents.noise(seed, sample, truncation, 5)[0] for sample in samples]
    np.testing.assert_array_equal(together, np.stack(alone))


@given(st.lists(st.tuples(seeds, seeds, truncations), min_size=1, max_size=5))
def test_rows_of_different_requests_can_share_a_batch(rows):
    columns = [list(column) for column in zip(*rows, strict=True)]
    together = latents.noise(columns[0], columns[1], columns[2], 3)
    alone = [latents.noise(seed, sample, truncation, 3)[0] for seed, sample, truncation in rows]
    np.testing.assert_array_equal(together, np.stack(alone))


@given(seeds, seeds, truncations)
def test_noise_stays_within_twice_the_truncation(seed, sample, truncation):
    assert np.abs(latents.noise(seed, sample, truncation, 64)).max() <= np.float32(2 * truncation)


@given(seeds, seeds, st.lists(truncations, min_size=2, max_size=4))
def test_a_smaller_truncation_moves_every_component_towards_zero(seed, sample, several):
    bounds = [*sorted(several), np.inf]
    narrow_to_wide = latents.noise([seed] * len(bounds), sample, bounds, 16)
    signs = np.sign(narrow_to_wide[-1])
    assert (np.diff(signs * narrow_to_wide, axis=0) >= 0).all()


@given(seeds, seeds)
def test_a_wider_component_count_only_appends(seed, sample):
    short, long = latents.noise(seed, sample, 1.0, 3), latents.noise(seed, sample, 1.0, 9)
    np.testing.assert_array_equal(short, long[:, :3])


@given(seeds, seeds, st.integers(1, 1024))
def test_a_draw_is_one_of_the_k(seed, sample, k):
    assert 0 <= latents.draw_ranks(seed, sample, k)[0] < k


def test_draws_are_even_and_noise_has_the_moments_of_a_truncated_normal():
    ranks = latents.draw_ranks(11, np.arange(5000), 5)
    assert np.bincount(ranks, minlength=5).min() > 900
    z = latents.noise(11, np.arange(500), 1.0, 100)
    assert abs(z.mean()) < 0.02
    assert abs(z.var() - 0.7737) < 0.02  # of a normal cut at ±2
    assert abs(latents.noise(11, np.arange(500), np.inf, 100).var() - 1) < 0.02


@given(st.floats(1e-300, 1 - 2**-53))
def test_the_quantile_inverts_the_distribution(p):
    assert latents.normal_cdf(float(latents.normal_quantile(np.array([p]))[0])) == pytest.approx(p, rel=1e-12)


def test_a_row_has_the_noise_it_would_have_alone():
    seeds, samples = np.array([3, 0, 3, latents.MAX_SEED]), np.array([0, 5, 1, 0])
    truncations = np.array([0.5, np.inf, 1, 0.5], np.float32)
    together = latents.noise(seeds, samples, truncations, 120)
    alone = [latents.noise(*row, 120)[0] for row in zip(seeds, samples, truncations, strict=True)]
    np.testing.assert_array_equal(together, np.stack(alone))
