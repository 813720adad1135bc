import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icgan_runtime.errors import RequestError
from icgan_runtime.latents import MAX_SEED, UNTRUNCATED
from icgan_runtime.request import (
    MAX_SAMPLES,
    Request,
    check_label,
    check_truncation,
    embedding_rows,
    make_request,
    pages,
)
from icgan_runtime.rows import CONDITIONS, OWN_LABEL


def ask(**changes) -> Request:
    """A request for one picture, with changes."""
    good = {
        "n": 1,
        "seed": 0,
        "truncation": 1.0,
        "condition": "query",
        "label": None,
        "classes": 3,
        "first": 0,
    }
    return make_request(**{**good, **changes})


def test_a_request_keeps_what_was_asked():
    asked = ask(n=7, seed=3, truncation=0.25, condition="sample", label=2, first=40)
    assert asked == Request(n=7, seed=3, truncation=0.25, condition="sample", label=2, first=40)
    assert ask() == Request(n=1, seed=0, truncation=1.0, condition="query", label=OWN_LABEL, first=0)


@pytest.mark.parametrize(
    ("field", "lowest", "highest", "message"),
    [
        ("n", 1, MAX_SAMPLES, "expected 1..10000 images"),
        ("seed", 0, MAX_SEED, "expected 0..2^63-1"),
        ("first", 0, MAX_SEED - MAX_SAMPLES, "expected 0..2^63-10001"),
        ("label", 0, 2, "expected 0..2"),
    ],
)
def test_a_whole_number_is_taken_up_to_its_bounds_and_no_further(field, lowest, highest, message):
    for value in (lowest, highest, np.int64(highest)):
        assert getattr(ask(**{field: value}), field) == value
    for value in (lowest - 1, highest + 1):
        with pytest.raises(RequestError) as caught:
            ask(**{field: value})
        assert str(caught.value) == f"{field}: {value}, {message}"
        assert caught.value.field == field
    for value in (True, np.bool_(False), 1.0, "1", None if field != "label" else [1]):
        with pytest.raises(RequestError) as caught:
            ask(**{field: value})
        assert str(caught.value) == f"{field}: {value!r}, expected a whole number"


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_truncation_is_taken_exactly_where_its_float32_is_in_the_bounds(value):
    with np.errstate(over="ignore"):
        rounded = float(np.float32(value))
    if 0 < rounded <= 1:
        assert check_truncation(value) == rounded
    else:
        with pytest.raises(RequestError, match=r"truncation: .*, expected a number in \(0, 1\]"):
            check_truncation(value)


def test_no_truncation_is_infinity_on_the_wire():
    assert check_truncation(None) == UNTRUNCATED == math.inf
    for value in ("half", [0.5, 0.5], object(), 10**400):
        with pytest.raises(RequestError, match="truncation"):
            check_truncation(value)


def test_a_condition_that_is_none_is_refused_with_the_ones_there_are():
    with pytest.raises(RequestError) as caught:
        ask(condition="random")
    assert str(caught.value) == "condition: 'random', expected one of query, nearest, sample"
    assert caught.value.problem == "'random', expected one of query, nearest, sample"
    assert caught.value.field == "condition"


def test_a_label_means_nothing_to_a_model_without_classes():
    assert check_label(None, 0) == OWN_LABEL
    with pytest.raises(RequestError) as caught:
        check_label(0, 0)
    assert str(caught.value) == "label: 0, but this model has no labels; leave it out"
    assert caught.value.field == "label"


@given(
    first=st.integers(0, 2**40),
    seed=st.integers(0, MAX_SEED),
    start=st.integers(0, 20),
    count=st.integers(1, 20),
    condition=st.sampled_from(CONDITIONS),
    truncation=st.floats(2**-20, 1, width=32),
)
def test_the_rows_of_a_request_number_its_samples_and_repeat_the_rest(
    first, seed, start, count, condition, truncation
):
    request = Request(100, seed, truncation, condition, 1, first)
    rows = request.rows(range(start, start + count), classes=2)
    assert rows.sample.tolist() == [first + start + i for i in range(count)]
    assert rows.seed.tolist() == [seed] * count
    assert rows.truncation.tolist() == [truncation] * count
    assert rows.condition.tolist() == [CONDITIONS.index(condition)] * count
    assert rows.label.tolist() == [1] * count
    dtypes = [
        column.dtype for column in (rows.seed, rows.sample, rows.truncation, rows.condition, rows.label)
    ]
    assert dtypes == [np.int64, np.int64, np.float32, np.int32, np.int64]
    assert request.rows(range(1), classes=0).label is None


@given(n=st.integers(1, 300), batch=st.integers(1, 300))
def test_pages_hold_every_sample_once_in_order_and_none_is_larger_than_asked(n, batch):
    found = list(pages(n, batch))
    assert [sample for page in found for sample in page] == list(range(n))
    assert {len(page) for page in found[:-1]} <= {batch}
    assert 1 <= len(found[-1]) <= batch


def test_pages_may_be_as_large_as_a_request_and_together_larger():
    assert [len(page) for page in pages(MAX_SAMPLES + 1, MAX_SAMPLES)] == [MAX_SAMPLES, 1]


@pytest.mark.parametrize(
    ("n", "batch", "message"),
    [
        (0, 1, "n: 0, expected at least 1 image"),
        (2.5, 1, "n: 2.5, expected a whole number"),
        (1, 0, "batch: 0, expected 1..10000 images"),
        (1, MAX_SAMPLES + 1, "batch: 10001, expected 1..10000 images"),
        (1, "all", "batch: 'all', expected a whole number"),
    ],
)
def test_pages_of_nothing_are_refused(n, batch, message):
    with pytest.raises(RequestError) as caught:
        pages(n, batch)
    assert str(caught.value) == message
    assert caught.value.field == message.split(":")[0]


def test_an_embedding_may_be_one_row_or_several_and_of_any_float():
    rows = np.eye(4)[:3]
    for given_rows, count in ((rows, 3), (rows[0], 1), (rows[:1].astype(np.float16), 1)):
        found = embedding_rows(given_rows, 4)
        assert found.dtype == np.float32
        assert found.shape == (count, 4)
        np.testing.assert_array_equal(found, np.atleast_2d(given_rows))


@pytest.mark.parametrize(
    "embedding",
    [np.ones((1, 4), np.int64), np.eye(4)[:, :3], np.ones((1, 1, 4)), np.zeros((0, 4)), np.array(1.0)],
)
def test_an_embedding_of_another_shape_or_kind_is_refused(embedding):
    with pytest.raises(RequestError) as caught:
        embedding_rows(embedding, 4)
    shape = list(embedding.shape)
    assert str(caught.value) == f"embedding: {embedding.dtype}{shape}, expected float32[4] or float32[N, 4]"
    assert caught.value.field == "embedding"
