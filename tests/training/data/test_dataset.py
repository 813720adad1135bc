import json
import tracemalloc

import numpy as np
import pytest

from icgan_training.data.dataset import PreparedDataset, read_rows
from icgan_training.data.prepare import prepare
from icgan_training.errors import DataError
from tests.training.pictures import write_pictures


@pytest.fixture
def prepared(photo, encoder_file, tmp_path):
    """A labelled data set of eight pictures, free to be damaged."""
    write_pictures(tmp_path / "in" / "a", photo, 4, seed=1)
    write_pictures(tmp_path / "in" / "b", photo, 4, seed=2)
    prepare(tmp_path / "in", tmp_path / "out", resolution=8, encoder=str(encoder_file), neighbours=3)
    return tmp_path / "out"


def refused(path, message):
    with pytest.raises(DataError, match=message):
        PreparedDataset.open(path)


def change(path, row, value):
    array = np.load(path)
    array[row] = value
    np.save(path, array)


def test_arrays_are_memory_mapped_and_read_only(prepared):
    data = PreparedDataset.open(prepared)
    assert isinstance(data.images, np.memmap)
    assert data.class_count == 2
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 0


def test_a_folder_that_is_no_prepared_set_is_refused(tmp_path):
    refused(tmp_path, "not a prepared data set")


@pytest.mark.parametrize(
    "name", ["images", "embeddings", "embeddings_flipped", "neighbours", "radii", "labels"]
)
def test_a_missing_array_is_named(prepared, name):
    (prepared / f"{name}.npy").unlink()
    refused(prepared, rf"{name}\.npy is missing")


def test_a_truncated_array_is_named(prepared):
    content = (prepared / "images.npy").read_bytes()
    (prepared / "images.npy").write_bytes(content[:-100])
    refused(prepared, r"images\.npy has 1564 bytes, dataset\.json says 1664")


def test_an_array_of_another_shape_is_refused(prepared):
    np.save(prepared / "embeddings.npy", np.zeros((1280, 8), np.float32))
    refused(prepared, r"embeddings\.npy holds float32 \[1280, 8\], dataset\.json says float32 \[8, 1280\]")


def test_a_nan_embedding_is_refused_by_row(prepared):
    change(prepared / "embeddings_flipped.npy", 6, np.nan)
    refused(prepared, r"embeddings_flipped\.npy: row 6 has length nan")


def test_an_embedding_that_is_not_a_unit_row_is_refused(prepared):
    change(prepared / "embeddings.npy", 2, 1.0)
    refused(prepared, "row 2 has length")


@pytest.mark.parametrize(("name", "value"), [("labels", 2), ("labels", -1), ("neighbours", 8)])
def test_an_index_out_of_range_is_refused(prepared, name, value):
    change(prepared / f"{name}.npy", 5, value)
    refused(prepared, rf"{name}\.npy: row 5 is outside")


def test_a_set_from_a_later_program_is_refused(prepared):
    file = prepared / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 2}))
    refused(prepared, "schema_version is 2, this program reads 1")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1}'])
def test_a_damaged_description_is_refused(prepared, text):
    (prepared / "dataset.json").write_text(text)
    refused(prepared, r"dataset\.json cannot be used")


def test_reading_many_rows_holds_them_once(tmp_path):
    np.save(tmp_path / "rows.npy", np.ones((4000, 200), np.float32))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    tracemalloc.start()
    copy = read_rows(rows, np.arange(0, 4000, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert type(copy) is np.ndarray
    assert copy.flags.writeable
    assert peak < 1.5 * copy.nbytes


def test_reading_rows_gives_a_copy_in_memory(prepared):
    data = PreparedDataset.open(prepared)
    rows = read_rows(data.embeddings, slice(2, 5))
    assert not isinstance(rows.base, np.memmap)
    assert np.array_equal(rows, data.embeddings[2:5])


def test_smaller_neighbourhoods_are_the_nearest_of_the_prepared_ones(prepared):
    data = PreparedDataset.open(prepared)
    smaller = data.nearest(2)
    assert np.array_equal(smaller.neighbours, data.neighbours[:, :2])
    assert smaller.meta.neighbours == 2
    second = data.embeddings[data.neighbours[:, 1]]
    assert smaller.radii == pytest.approx(np.linalg.norm(data.embeddings - second, axis=1), abs=1e-6)
    assert (smaller.radii <= data.radii + 1e-6).all()


@pytest.mark.parametrize("k", [0, 4])
def test_neighbourhoods_that_were_not_prepared_are_refused(prepared, k):
    with pytest.raises(DataError, match=f"neighbours is {k}, .* holds 3 for each picture"):
        PreparedDataset.open(prepared).nearest(k)
