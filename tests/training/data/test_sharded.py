"""Neighbours of sets that are too large to compare every pair, on small ones."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from icgan_runtime import files
from icgan_training.data import neighbours, sharded
from icgan_training.data.neighbours import CellIndex, nearest_neighbours
from icgan_training.data.sharded import find_neighbours
from icgan_training.errors import DataError
from tests.training.data.test_neighbours import unit_rows

K = 10


@pytest.fixture(scope="module")
def rows():
    return unit_rows(4000, dim=32, centres=unit_rows(50, dim=32, seed=1))


@pytest.fixture(scope="module")
def exact(rows):
    return nearest_neighbours(rows, K)


@pytest.fixture
def in_shards(monkeypatch):
    """Shards of 700 rows and small blocks, so that a small set has several of each."""
    for name, value in {"SHARD_ROWS": 700, "ROWS_PER_CALL": 300, "BLOCK_ROWS": 900}.items():
        monkeypatch.setattr(sharded, name, value)


def recall(found, exact):
    pairs = zip(found.indices, exact.indices, strict=True)
    return np.mean([len(set(a.tolist()) & set(b.tolist())) / K for a, b in pairs])


def test_the_index_finds_almost_all_neighbours_and_says_how_many(rows, exact, tmp_path, in_shards, capsys):
    found = find_neighbours(rows, K, 1000, folder=tmp_path)
    assert not found.exact
    assert recall(found, exact) > 0.94
    assert not (found.indices == np.arange(len(rows))[:, None]).any()
    last = np.einsum("nd,nd->n", rows, rows[found.indices[:, -1]])
    np.testing.assert_allclose(found.radii, np.sqrt(np.maximum(2 - 2 * last, 0)), atol=1e-3)
    assert "of the true neighbours of 200 pictures" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"neighbours.npy", "radii.npy"}


def test_neighbours_stand_in_the_order_of_their_true_scores(rows, tmp_path, in_shards):
    found = find_neighbours(rows, K, 1000, folder=tmp_path)
    scores = np.einsum("nd,nkd->nk", rows, rows[found.indices])
    assert (np.diff(scores, axis=1) <= 1e-6).all()


def test_shards_that_are_searched_one_after_the_other_give_what_one_index_gives(
    rows, tmp_path, in_shards, monkeypatch
):
    (tmp_path / "one").mkdir()
    one = find_neighbours(rows, K, 1000, folder=tmp_path / "one")
    monkeypatch.setattr(sharded, "MERGED_BYTES", 1)
    (tmp_path / "apart").mkdir()
    apart = find_neighbours(rows, K, 1000, folder=tmp_path / "apart")
    assert (one.indices == apart.indices).mean() > 0.999  # rough scores that are equal may stand otherwise


def test_up_to_a_size_every_pair_is_compared(rows, exact, tmp_path):
    found = find_neighbours(rows, K, 4000, folder=tmp_path)
    assert found.exact
    assert np.array_equal(np.load(tmp_path / "neighbours.npy"), exact.indices)


def test_a_handful_is_compared_in_any_case(tmp_path):
    few = unit_rows(5)
    found = find_neighbours(few, 2, 0, folder=tmp_path)
    assert np.array_equal(found.indices, nearest_neighbours(few, 2).indices)


def test_rows_whose_cells_hold_too_few_others_are_compared_with_all(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(sharded, "PROBES", 1)
    monkeypatch.setattr(sharded, "MOST_PROBES", 1)
    wide = find_neighbours(rows, 200, 1000, folder=tmp_path)  # 63 cells of about 63 rows
    # but for pictures whose scores differ by rounding
    assert (wide.indices == nearest_neighbours(rows, 200).indices).mean() > 0.999


def test_a_recall_that_is_missed_is_warned_of_with_the_way_out(rows, tmp_path, monkeypatch, capsys):
    for name in ("PROBES", "MOST_PROBES", "REACH", "MOST_REACH"):
        monkeypatch.setattr(sharded, name, 1)
    find_neighbours(rows, K, 1000, folder=tmp_path)
    assert "warning: 0.95 was wanted: --exact-up-to 4000" in capsys.readouterr().err


def test_a_killed_search_builds_only_the_shards_that_are_missing(rows, tmp_path, in_shards, monkeypatch):
    straight = find_neighbours(rows, K, 1000, folder=tmp_path)
    written: list[Path] = []
    write, room = CellIndex.write, [3]

    def killed_at_the_third(index: CellIndex, path: Path) -> None:
        if len(written) == room[0]:
            raise KeyboardInterrupt
        written.append(path)
        write(index, path)

    monkeypatch.setattr(CellIndex, "write", killed_at_the_third)
    (tmp_path / "again").mkdir()
    with pytest.raises(KeyboardInterrupt):
        find_neighbours(rows, K, 1000, folder=tmp_path / "again")
    before = list(written)
    room[0] = 100
    found = find_neighbours(rows, K, 1000, folder=tmp_path / "again")
    assert len(before) == 3
    assert len(set(written)) == len(written) == 7  # the trained cells, and six shards
    assert np.array_equal(found.indices, straight.indices)


def test_a_full_disk_is_one_line_and_the_shards_stay(rows, tmp_path, in_shards, monkeypatch):
    def full(file: int, content: bytes, place: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DataError, match=r"neighbours\.npy could not be written .*run the same command"):
            find_neighbours(rows, K, 1000, folder=tmp_path)
    kept = sorted((tmp_path / "search").glob("0*.index"))
    assert len(kept) == 6
    assert recall(find_neighbours(rows, K, 1000, folder=tmp_path), nearest_neighbours(rows, K)) > 0.94


def test_an_index_that_the_disk_refuses_is_one_line(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "atomic_file", lambda path: files.atomic_file(path / "gone" / "x"))
    with pytest.raises(DataError, match=r"empty\.index could not be written .*free some space"):
        find_neighbours(rows, K, 1000, folder=tmp_path)


def test_finding_neighbours_holds_no_copy_of_the_embeddings(tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(sharded, "SAMPLE_BYTES", 1 << 20)
    monkeypatch.setattr(sharded, "ROWS_PER_CALL", 256)
    monkeypatch.setattr(neighbours, "TOGETHER", 16)
    np.save(tmp_path / "rows.npy", unit_rows(30_000, dim=512, centres=unit_rows(300, dim=512, seed=1)))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    tracemalloc.start()
    find_neighbours(mapped, 5, 1000, folder=tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < mapped.nbytes / 2
