"""Embeddings in fewer bytes: every reader takes them for the same rows."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from icgan_runtime.bundle import arrays, bank
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.coded import CODINGS, Decoded, decode, encode
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.cli import main
from icgan_runtime.errors import BundleError, RequestError
from icgan_runtime.pipeline import Pipeline
from icgan_runtime.search.choose import choose_search

SMALL = ("float16", "int8")
ERROR = {"float16": 5e-4, "int8": 5e-3}  # of a score
BYTES = {"float16": 2, "int8": 1}


def unit_rows(count: int, width: int = 64, seed: int = 0):
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def bank_of(count: int, coding: str = "float32") -> Bank:
    return Bank("space", unit_rows(count), np.arange(count) * 3, None, None, "s", "CC0-1.0").coded(coding)


@pytest.mark.parametrize("coding", SMALL)
def test_a_bank_takes_the_bytes_it_says_and_scores_stay_near(coding, tmp_path):
    plain, small = bank_of(500), bank_of(500, coding)
    small.write(tmp_path)
    assert (tmp_path / "embeddings.npy").stat().st_size < 500 * 64 * BYTES[coding] + 200
    queries = unit_rows(20, seed=1)
    error = np.abs(queries @ small.embeddings.T - queries @ plain.embeddings.T)
    assert 0 < error.max() < ERROR[coding]


@pytest.mark.parametrize("coding", SMALL)
@pytest.mark.parametrize("mapped", [False, True])
def test_all_searches_answer_alike_whether_rows_are_decoded_at_once_or_where_they_are_read(
    coding, mapped, tmp_path, monkeypatch
):
    written = bank_of(500, coding)
    written.write(tmp_path)
    if mapped:
        monkeypatch.setattr(bank, "_MAP_ABOVE_BYTES", 0)
    read = Bank.read(tmp_path)
    assert isinstance(read.embeddings, Decoded) == mapped
    assert read.coding == coding
    assert np.array_equal(np.asarray(read.embeddings), written.embeddings)
    queries = unit_rows(9, seed=2)
    expected = choose_search(written, "numpy")(queries, 7)
    for name in ("numpy", "faiss", "faiss-ivf"):
        ids, scores = choose_search(read, name)(queries, 7)
        assert np.array_equal(ids, expected[0]), name
        assert np.array_equal(scores, expected[1]), name


@pytest.mark.parametrize("coding", CODINGS)
def test_rows_that_were_decoded_are_stored_as_they_were(coding):
    stored = encode(unit_rows(300), coding)
    assert np.array_equal(encode(decode(stored), coding), stored)


def test_a_row_of_bytes_is_a_direction_whatever_its_length():
    stored = np.array([[3, 4, 0], [-60, 80, 0]], np.int8)
    assert np.array_equal(decode(stored), np.array([[0.6, 0.8, 0], [-0.6, 0.8, 0]], np.float32))


@pytest.mark.parametrize(("coding", "value"), [("int8", 0), ("float16", np.nan)])
def test_rows_that_are_no_directions_are_refused(coding, value, tmp_path):
    bank_of(20, coding).write(tmp_path)
    stored = encode(bank_of(20).embeddings, coding)
    stored[7] = value
    arrays.write_npy(tmp_path / "embeddings.npy", stored)
    with pytest.raises(BundleError, match=r"row 7 of length nan"):
        Bank.read(tmp_path)


def test_an_unknown_form_is_refused_with_those_there_are():
    with pytest.raises(RequestError, match=r"embeddings: 'int4', expected one of float32, float16, int8"):
        bank_of(5, "int4")


@pytest.mark.parametrize("coding", SMALL)
def test_icgan_bank_writes_a_bundle_that_verifies_searches_and_is_indexed(
    coding, tiny_bundle, tmp_path, capsys
):
    with Pipeline.load(tiny_bundle) as pipe:
        width = pipe.model.embedding_dim
    np.save(tmp_path / "rows.npy", unit_rows(400, width))
    out = tmp_path / "small"
    words = ["bank", tiny_bundle, "--from", tmp_path / "rows.npy", "--out", out, "--embeddings", coding]
    assert main([str(word) for word in words]) == 0
    assert main(["info", "--verify", str(out)]) == 0
    assert main(["index", str(out)]) == 0
    stored = Bank.of_bundle(Bundle.open(out))
    assert stored.coding == coding
    assert stored.cells is not None
    with Pipeline.load(out) as pipe:
        ids, _ = pipe.search(unit_rows(400, width)[:5], k=1)
    assert ids[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_copy_of_the_folder_serves_as_a_bank_of_its_own(tmp_path):
    bank_of(50, "int8").write(tmp_path)
    moved = shutil.copytree(tmp_path, tmp_path / "moved")
    assert Bank.read(moved).coding == "int8"
