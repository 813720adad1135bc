"""Ways to instances that are compared: each has a name of its own, and draws what it says."""

import importlib

import numpy as np

prior = importlib.import_module("benchmarks.prior")


def unit(count):
    rows = np.random.default_rng(0).normal(size=(count, 24))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_every_row_has_a_name_of_its_own_and_the_first_stores_all():
    first, *others = prior.ways()
    assert first.stored == 0
    assert len({way.name for way in (first, *others)}) == len(others) + 1


def test_centres_alone_draw_nothing_but_centres():
    drawn, _ = prior.Way("", centres=4, axes=0).fit(unit(60)).instances(0, np.arange(200))
    assert len(np.unique(drawn.round(5), axis=0)) <= 4


def test_pictures_held_out_are_no_nearer_than_those_that_are_there():
    rows = unit(100)
    assert float(prior.held_out(np.concatenate([rows, rows]))[2]) > 0.99
    assert float(prior.held_out(rows)[4]) < 0.99
    name, centres, *_, told_apart = prior.nearness(rows, prior.Way("prior of 8", centres=8))
    assert name == "prior of 8"
    assert 1 <= int(centres) <= 8
    assert 0.4 <= float(told_apart) <= 1
