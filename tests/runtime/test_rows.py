import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import RequestError
from icgan_runtime.latents import MAX_SEED, draw_ranks, noise
from icgan_runtime.request import Request
from icgan_runtime.rows import CONDITIONS, OWN_LABEL, Rows, check_embedding


def rows_of(**changes) -> Rows:
    """Three good rows, with changes."""
    good = Rows(
        seed=np.array([0, 7, MAX_SEED]),
        sample=np.array([0, 1, 2]),
        truncation=np.array([1.0, 0.5, np.inf], np.float32),
        condition=np.array([0, 1, 2], np.int32),
        label=np.array([OWN_LABEL, 0, 2]),
    )
    return dataclasses.replace(good, **changes)


@pytest.fixture(scope="module")
def model(labelled_bundle):
    return Bundle.open(labelled_bundle).manifest.model


@pytest.fixture(scope="module")
def bank(labelled_bundle) -> Bank:
    return Bank.of_bundle(Bundle.open(labelled_bundle))


def test_good_rows_pass(model):
    rows_of().check(model.classes)
    rows_of(label=None).check(model.classes)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", -1, r"seed: -1, expected 0\.\.2\^63-1"),
        ("sample", -5, "sample: -5"),
        ("truncation", 0, "truncation: 0.0, expected more than 0 and at most 1"),
        ("truncation", 1.001, "truncation: 1.001"),
        ("truncation", np.nan, "truncation: nan"),
        ("truncation", -np.inf, "truncation: -inf"),
        ("condition", 3, r"condition: 3, expected 0 \(query\), 1 \(nearest\), 2 \(sample\)"),
        ("condition", -1, "condition: -1"),
        ("label", 3, r"label: 3, expected 0\.\.2, or .* for the instance's own"),
        ("label", -1, "label: -1"),
    ],
)
@pytest.mark.parametrize("row", [0, 2])
def test_one_bad_value_in_any_row_is_refused_by_field(model, field, value, message, row):
    array = getattr(rows_of(), field).copy()
    array[row] = value
    with pytest.raises(RequestError, match=message) as caught:
        rows_of(**{field: array}).check(model.classes)
    assert caught.value.field == field


def test_each_row_has_the_noise_of_its_own_request(model):
    rows = rows_of()
    together = rows.noise(model)
    for row in range(3):
        alone = noise(rows.seed[row], rows.sample[row], rows.truncation[row], model.dim_z)
        np.testing.assert_array_equal(together[row], alone[0])


@given(seed=st.integers(0, MAX_SEED), n=st.integers(1, 6), code=st.integers(0, 2))
def test_each_row_sees_the_embedding_and_label_its_condition_names(bank, seed, n, code):
    request = Request(n, seed, 1.0, CONDITIONS[code], OWN_LABEL)
    own = np.eye(12, dtype=np.float32)[:n]
    ids = np.tile(np.array([[4, 9, 2, 11, 0]]), (n, 1))
    rows = request.rows(range(n), classes=3)
    ranks = draw_ranks(seed, np.arange(n), 5) if code == 2 else np.zeros(n, int)
    chosen = ids[0][ranks]
    expected = own if code == 0 else bank.embeddings[chosen]
    np.testing.assert_array_equal(rows.conditioning(own, ids, bank), expected)
    assert bank.labels is not None
    np.testing.assert_array_equal(rows.labels(ids, bank), bank.labels[chosen])


def test_a_given_label_wins_over_the_instances(bank):
    ids = np.tile(np.array([[4, 9, 2, 11, 0]]), (3, 1))
    labels = rows_of(label=np.array([2, OWN_LABEL, 1])).labels(ids, bank)
    assert labels.tolist() == [2, 4 % 3, 1]


def test_a_bank_without_labels_has_none_to_give(bank):
    bare, ids = dataclasses.replace(bank, labels=None), np.zeros((3, 5), np.int64)
    assert rows_of(label=np.array([0, 1, 2])).labels(ids, bare).tolist() == [0, 1, 2]
    with pytest.raises(RequestError, match="label: must be given"):
        rows_of().labels(ids, bare)


def test_conditioning_leaves_the_callers_embedding_alone(bank):
    own = np.eye(12, dtype=np.float32)[:3]
    rows_of().conditioning(own, np.zeros((3, 5), np.int64), bank)
    np.testing.assert_array_equal(own, np.eye(12, dtype=np.float32)[:3])


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 2.0])
def test_an_embedding_row_that_is_not_of_unit_length_is_refused(value):
    rows = np.eye(3, dtype=np.float32)
    check_embedding(rows)
    rows[1] = value
    with pytest.raises(RequestError, match=r"embedding: .*expected rows of length 1"):
        check_embedding(rows)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.booleans())
def test_rows_travel_with_the_picture_that_they_show_and_come_back_in_their_order(shown, labelled):
    n = len(shown)
    label = np.arange(n) if labelled else None
    rows = Rows(
        np.arange(n) + 5,
        np.arange(n),
        np.linspace(0.1, 1, n, dtype=np.float32),
        np.full(n, 2, np.int32),
        label,
    )
    back, picture = Rows.unpack(rows.pack(np.array(shown), 4), labelled)
    assert picture.tolist() == shown
    for field in dataclasses.fields(Rows):
        before, after = getattr(rows, field.name), getattr(back, field.name)
        np.testing.assert_array_equal(before, after)
        assert before is None or before.dtype == after.dtype
