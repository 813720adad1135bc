"""How a run is cut into units, whatever its size."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icgan_runtime.errors import RequestError
from icgan_runtime.synthesize.recipe import Recipe, Settings, instance_seed, read_recipe


def recipe(instances: int, **settings) -> Recipe:
    return Recipe({}, {}, "folder", instances, "0" * 64, None, "CC0-1.0", 8, 32, Settings(**settings))


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.booleans())
def test_units_hold_every_sample_of_every_instance_once(instances, per, shard, choosing):
    whole = recipe(instances, per=per, shard=shard, best_of=60 if choosing else None)
    held = [
        (i, j)
        for number in range(whole.units)
        for unit in [whole.unit(number)]
        for i in unit.instances
        for j in unit.samples
    ]
    assert held == [(i, j) for i in range(instances) for j in range(per)]


def test_ten_thousand_million_variants_are_cut_without_a_list_of_them():
    whole = recipe(1_000_000_000, per=10)
    assert whole.variants == 10**10
    assert whole.units == 10**7
    last = whole.unit(whole.units - 1)
    assert (last.instances, last.samples) == (range(999_999_900, 1_000_000_000), range(10))


def test_the_name_follows_every_part_of_the_recipe():
    first = recipe(3)
    others = [
        recipe(4),
        recipe(3, seed=1),
        recipe(3, image="jpeg"),
        replace(first, batch=16),
        replace(first, programs={"pillow": "1"}),
    ]
    assert len({one.id for one in (first, *others)}) == 6
    assert recipe(3).id == first.id
    assert first.shard_name(7) == f"{first.id}-00000007.tar"


def test_seeds_are_in_range_and_follow_seed_and_instance():
    seeds = {instance_seed(s, name) for s in (0, 1) for name in ("a", "b", "\udc80")}
    assert len(seeds) == 6
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_a_recipe_is_read_back_and_a_changed_one_refused(tmp_path):
    recipe(3).write(tmp_path)
    assert read_recipe(tmp_path) == recipe(3)
    text = (tmp_path / "recipe.json").read_text()
    (tmp_path / "recipe.json").write_text(text.replace('"seed": 0', '"seed": "0"'))
    with pytest.raises(RequestError, match=r"settings\.seed"):
        read_recipe(tmp_path)
