"""Regions of one connection: lent to one request at a time, never again after one that went wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from icgan_runtime.client.regions import Pool, SystemRegion


@pytest.fixture
def pool():
    pool = Pool(SystemRegion, 48)
    yield pool
    for region in pool.close():
        region.close()


def mapped(name: str) -> bool:
    return (Path("/dev/shm") / name).exists()


def test_a_region_holds_an_array_until_it_is_closed():
    region, other = SystemRegion(48), SystemRegion(48)
    assert region.name != other.name
    assert re.fullmatch(f"icgan-{os.getpid()}-[0-9a-f]{{10}}", region.name), (
        "what is left behind names its owner"
    )
    assert len(region.name) <= 31, "longer names are refused on macOS"
    assert region.registration == (region.name, f"/{region.name}", 48)
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    region.write(array)
    read = region.read("<f4", (3, 4))
    np.testing.assert_array_equal(read, array)
    region.write(array + 1)
    np.testing.assert_array_equal(read, array, "a copy")
    assert mapped(region.name)
    region.close()
    other.close()
    assert not mapped(region.name)


def test_what_was_given_back_is_lent_again_and_nothing_else(pool):
    assert pool.take() is None, "the server does not know any yet"
    region = pool.new()
    assert region.size == pool.size == 48
    assert pool.take() is None
    pool.give(region)
    assert pool.take() is region
    assert pool.take() is None
    pool.give(region)


def test_what_was_lost_stays_mapped_and_is_handed_out_once_until_the_server_lets_go(pool):
    """Memory of a GPU must not go while the server has it mapped, and may be writing."""
    first, second, third = (pool.new() for _ in range(3))
    pool.lose(first)
    pool.lose(second, third)
    assert pool.take() is None
    assert all(mapped(region.name) for region in (first, second, third))
    assert pool.lost() == [first, second, third]
    assert pool.lost() == []
    pool.lose(second)
    assert pool.lost() == [second]
    for region in (first, second, third):
        region.close()


def test_closing_hands_out_everything_the_server_should_forget(pool):
    free, lost = pool.new(), pool.new()
    pool.give(free)
    pool.lose(lost)
    assert pool.close() == [free, lost]
    assert mapped(free.name)
    assert pool.take() is None
    assert pool.close() == []
    free.close()
    lost.close()
