import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icgan_runtime.bundle.bank import ABOUT_NAME, Bank
from icgan_runtime.bundle.manifest import Manifest, describe_file
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import BindingError, BundleError, IntegrityError
from icgan_runtime.names import Names


@pytest.fixture
def folder(tiny_bundle, tmp_path):
    """A bank folder of its own, free to be damaged."""
    return shutil.copytree(tiny_bundle / "bank", tmp_path / "bank")


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def assert_equal(a: Bank, b: Bank):
    assert a.about == b.about
    for name in ("embeddings", "ids", "labels", "thumbnails"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.names is None) == (b.names is None)
    if a.names is not None and b.names is not None:
        assert a.names.pick(range(len(a))) == b.names.pick(range(len(b)))


def test_the_bank_of_a_bundle_is_the_bank_in_its_folder(tiny_bundle):
    assert_equal(Bank.of_bundle(Bundle.open(tiny_bundle)), Bank.read(tiny_bundle / "bank"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    count=st.integers(1, 8),
    labelled=st.booleans(),
    named=st.booleans(),
    side=st.none() | st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_a_written_bank_reads_back_equal(tmp_path, count, labelled, named, side, seed):
    rng = np.random.default_rng(seed)
    for file in tmp_path.glob("name*"):
        file.unlink()
    bank = Bank(
        "space",
        unit(rng.normal(size=(count, 3)) + 1e-3),
        np.cumsum(rng.integers(1, 9, count)),
        rng.integers(0, 5, count) if labelled else None,
        rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8) if side else None,
        "Ünïcode source",
        "CC0-1.0",
        Names.of(f"Ünï/{number}.png" for number in range(count)) if named else None,
    )
    bank.write(tmp_path)
    assert_equal(Bank.read(tmp_path), bank)


def test_names_are_read_from_a_bundle_and_a_bundle_of_before_has_none(tiny_bundle, labelled_bundle):
    named = Bank.of_bundle(Bundle.open(tiny_bundle))
    assert named.names is not None
    assert named.names.pick([3, 19]) == ("été/003.png", "été/019.png")
    assert Bank.of_bundle(Bundle.open(labelled_bundle)).names is None


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (np.arange(20), "do not end where"),
        (np.r_[np.arange(12) * 10, np.full(7, 5), 240], "do not end where"),
        (np.r_[-1, np.arange(1, 19), 240], "do not end where"),
        (np.array([240]), r"says int64\[20\]"),
    ],
)
def test_names_that_do_not_fit_the_bank_are_refused(folder, ends, message):
    np.save(folder / "name_ends.npy", ends)
    with pytest.raises(BundleError, match=message):
        Bank.read(folder)


def test_names_that_a_terminal_cannot_show_are_read_as_marks():
    names = Names.of(["a\x1b[31m.png", "b\udce9.png", "x" * 1000])
    assert names.pick(range(3)) == ("a\ufffd[31m.png", "b\ufffd.png", "x" * 400)
    raw = Names(np.frombuffer(b"\xff\x1b", np.uint8), np.array([2]))
    assert raw[0] == "\ufffd\ufffd"


def test_rows_are_found_by_id():
    bank = Bank("space", np.eye(3, dtype=np.float32), np.array([5, 7, 90]), None, None)
    assert bank.rows(np.array([[90, 5], [7, 7]])).tolist() == [[2, 0], [1, 1]]


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("embeddings.npy", np.zeros((20, 12), np.float32), "rows that are not of unit length"),
        ("embeddings.npy", np.full((20, 12), np.nan, np.float32), "row 0 of length nan"),
        (
            "embeddings.npy",
            np.zeros((19, 12), np.float32),
            r"holds float32\[19, 12\], bank.json says float32\[20, 12\]",
        ),
        ("embeddings.npy", np.zeros((20, 12)), "holds .<f8."),
        ("embeddings.npy", np.zeros((20, 12), ">f4"), "holds .>f4."),
        ("embeddings.npy", np.zeros((12, 20), np.float32).T, "column order"),
        ("ids.npy", np.arange(20)[::-1].copy(), "strictly increasing"),
        ("ids.npy", np.arange(20) - 1, "non-negative"),
        ("ids.npy", np.zeros(20, np.int64), "strictly increasing"),
        # the step from the largest number to the smallest is 1 if it may overflow
        ("ids.npy", np.array([*range(18), 2**63 - 1, -(2**63)]), "strictly increasing"),
        ("labels.npy", np.full(20, -1), "holds a negative label"),
        ("thumbnails.npy", np.zeros((20, 4, 4), np.uint8), r"says uint8\[20, 4, 4, 3\]"),
    ],
)
def test_an_array_that_breaks_the_format_is_refused_by_name(folder, file, array, message):
    np.save(folder / file, array)
    with pytest.raises(BundleError, match=rf"bank/{file}: .*{message}"):
        Bank.read(folder)


def test_a_description_of_absurd_size_is_refused_before_it_is_parsed(tiny_bundle, copy_bundle):
    root = copy_bundle(tiny_bundle)
    with (root / "bank" / "bank.json").open("ab") as file:
        file.write(b" " * (8 << 20))
    book = Manifest.read(root)
    signed = {**book.files, "bank/bank.json": describe_file(root / "bank" / "bank.json")}
    dataclasses.replace(book, files=signed).write(root)
    for read in (lambda: Bank.of_bundle(Bundle.open(root)), lambda: Bank.read(root / "bank")):
        with pytest.raises(BundleError, match=r"bank\.json: \d+ bytes, at most 8388608 are accepted"):
            read()


def test_a_pickle_in_place_of_an_array_is_refused(folder):
    np.save(folder / "ids.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(BundleError, match=r"bank/ids\.npy: holds .\|O., expected"):
        Bank.read(folder)


@pytest.mark.parametrize(
    "shape",
    [
        "(1099511627776,)",
        "(999999999999999999, 999999999999999999, )",
        "(-1,)",
        "(2, -10)",
        "(10**20,)",
        "(True,)",
        "('a',)",
        "9" * 5000,
    ],
)
def test_a_header_that_promises_more_than_the_file_is_refused(folder, shape):
    text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    (folder / "ids.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    with pytest.raises(
        BundleError, match=r"bank/ids\.npy: (its header promises|its \.npy header does not|not a \.npy)"
    ):
        Bank.read(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", 'format is not "icgan-bank"'),
        ("schema_version", 9, "schema_version 9"),
        ("count", "20", "bank.count: expected int"),
        ("surprise", 1, "unknown key 'surprise'"),
        ("thumbnail_size", -4, r"thumbnails\.npy"),
        ("embedding_dim", 1 << 62, r"embeddings\.npy"),
    ],
)
def test_a_damaged_description_is_refused(folder, key, value, message):
    about = json.loads((folder / ABOUT_NAME).read_text())
    (folder / ABOUT_NAME).write_text(json.dumps({**about, key: value}))
    with pytest.raises(BundleError, match=message):
        Bank.read(folder)


def test_a_missing_array_is_refused_by_name(folder):
    (folder / "ids.npy").unlink()
    with pytest.raises(IntegrityError, match=r"ids\.npy: missing"):
        Bank.read(folder)


def test_a_bank_of_another_encoder_is_refused(tiny_bundle, foreign_bundle):
    model = Bundle.open(tiny_bundle).manifest.model
    Bank.read(tiny_bundle / "bank").require_space(model)
    with pytest.raises(BindingError, match=r"bank: made for embedding space .* but encoder tiny"):
        Bank.read(foreign_bundle / "bank").require_space(model)


def test_labels_beyond_the_classes_of_the_model_are_refused(labelled_bundle):
    bank = Bank.read(labelled_bundle / "bank")
    bank.require_labels_below(3)
    with pytest.raises(BindingError, match="label 2 in a bank of a model with 2 classes"):
        bank.require_labels_below(2)


def test_a_large_bank_is_mapped_and_searched_like_a_small_one(tiny_bundle, monkeypatch):
    from icgan_runtime.bundle import bank as module

    small = Bank.of_bundle(Bundle.open(tiny_bundle))
    monkeypatch.setattr(module, "_MAP_ABOVE_BYTES", 0)
    mapped = Bank.of_bundle(Bundle.open(tiny_bundle))
    assert isinstance(mapped.embeddings, np.memmap)
    assert_equal(mapped, small)
