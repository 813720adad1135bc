"""From a preset and a data set to the settings of a run."""

import pytest

from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import ConfigError
from icgan_training.fit.settings import neighbourhood_note, parse_overrides, resolve
from icgan_training.networks.presets import preset

TINY = preset("tiny")


def test_values_are_json_where_they_can_be_and_text_elsewhere():
    given = [
        "ch=8",
        "attention=[8, 16]",
        "generator_lr=1e-3",
        "long_tail=true",
        "precision=bfloat16",
        "neighbours=null",
    ]
    assert parse_overrides(given) == {
        "ch": 8,
        "attention": (8, 16),
        "generator_lr": 1e-3,
        "long_tail": True,
        "precision": "bfloat16",
        "neighbours": None,
    }


@pytest.mark.parametrize("setting", ["ch", "chanels=3", "=3"])
def test_a_setting_that_does_not_exist_is_refused_with_those_that_do(setting):
    with pytest.raises(
        ConfigError, match=rf"--set {setting}: expected NAME=VALUE with one of .*attention.* ch"
    ):
        parse_overrides([setting])


def test_overrides_reach_the_model_and_the_training(make_prepared):
    data = PreparedDataset.open(make_prepared())
    model, train = resolve(TINY, data, {"ch": 6, "batch_size": 8})
    assert (model.ch, train.batch_size) == (6, 8)
    assert train.generator_lr == TINY.train.generator_lr


def test_the_embedding_width_and_the_classes_are_those_of_the_data(make_prepared):
    labels = [i % 4 for i in range(40)]
    data = PreparedDataset.open(make_prepared(embedding_dim=24, labels=labels, class_count=6))
    model, _ = resolve(TINY, data, {"class_count": 1000})
    assert (model.embedding_dim, model.class_count) == (24, 6)


def test_clusters_are_as_many_as_asked_whatever_the_classes_of_the_data(make_prepared):
    data = PreparedDataset.open(make_prepared(labels=[0] * 40))
    asked = {"class_count": 7, "embedding_dim": None, "label_source": "clusters"}
    assert resolve(TINY, data, asked)[0].class_count == 7


@pytest.mark.parametrize(
    ("data", "overrides", "message"),
    [
        ({"resolution": 64}, {}, "preset tiny is 32 px, .* 64 px: prepare the pictures with --resolution 32"),
        ({}, {"class_count": 4}, "takes labels, .* has none: choose another preset"),
        ({}, {"long_tail": True}, "long_tail balances classes, .* has no labels"),
        ({}, {"batch_size": 0}, "batch_size is 0; it must be positive"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(data, overrides, message, make_prepared):
    with pytest.raises(ConfigError, match=message):
        resolve(TINY, PreparedDataset.open(make_prepared(**data)), overrides)


@pytest.mark.parametrize(
    ("prepared", "overrides", "fix"),
    [
        (5, {}, "--set neighbours=3"),
        (2, {}, "--neighbours 3"),
        (3, {}, None),
        (5, {"neighbours": 4}, None),
        (5, {"embedding_dim": None, "class_count": 1}, None),
    ],
    ids=["more", "fewer", "as many", "chosen", "no instance"],
)
def test_other_neighbourhoods_than_the_presets_are_told_unless_they_were_chosen(
    prepared, overrides, fix, make_prepared
):
    data = PreparedDataset.open(make_prepared(neighbours=prepared))
    note = neighbourhood_note(TINY, *resolve(TINY, data, overrides), data)
    if fix is None:
        assert note is None
    else:
        assert f"is for 3 neighbours, {data.path} has {prepared}" in str(note)
        assert fix in str(note)
