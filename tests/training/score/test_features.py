import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from icgan_training.data.dataset import PreparedDataset
from icgan_training.errors import DataError
from icgan_training.score import features
from icgan_training.score.features import FeatureNetwork, in_bfloat16, picture_order, real_features


class Colours:
    """A feature network that counts the pictures it has seen: mean colours [N, 3]."""

    def __init__(self):
        self.seen = 0

    def __call__(self, pictures):
        self.seen += len(pictures)
        return pictures.float().mean(dim=(1, 2))


@pytest.fixture
def data(make_prepared):
    return PreparedDataset.open(make_prepared(count=40, resolution=8))


@pytest.fixture
def colours():
    return Colours()


@pytest.fixture
def network(colours):
    return FeatureNetwork("colours", "0" * 64, colours, torch.device("cpu"))


def test_features_follow_the_fixed_order(data, network):
    expected = data.images[picture_order(40)[:30]].mean(axis=(1, 2))
    np.testing.assert_allclose(real_features(data, network, 30), expected, rtol=1e-5)


def test_features_are_extracted_once(data, network, colours):
    first = real_features(data, network, 40)
    assert np.array_equal(real_features(data, network, 40), first)
    assert np.array_equal(real_features(data, network, 25), first[:25])
    assert colours.seen == 40


@pytest.mark.parametrize("left", [0, 100, 150], ids=["nothing", "a part of the header", "a part of the rows"])
def test_a_piece_that_a_crash_left_unfinished_is_extracted_again(left, data, network, colours):
    first = real_features(data, network, 40)
    (piece,) = data.path.rglob("000000.npy")
    piece.write_bytes(piece.read_bytes()[:left])
    assert np.array_equal(real_features(data, network, 40), first)
    assert colours.seen == 80


def test_a_data_set_that_may_not_be_written_is_compared_with_all_the_same(data, network, colours, capsys):
    expected = real_features(data, network, 40)
    fixed = dataclasses.replace(data, path=Path("/sys"))  # where not even root makes a folder
    assert np.array_equal(real_features(fixed, network, 40), expected)
    assert colours.seen == 80
    assert "note: features are extracted anew each time" in capsys.readouterr().err


def test_features_are_held_in_memory_once(data, monkeypatch):
    monkeypatch.setattr(features, "PIECE", 4)

    def wide(pictures):
        return torch.zeros(len(pictures), 50_000)

    network = FeatureNetwork("wide", "0" * 64, wide, torch.device("cpu"))
    real_features(data, network, 40)
    tracemalloc.start()
    found = real_features(data, network, 40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * found.nbytes


def test_another_network_has_its_own_store(data, network, colours):
    real_features(data, network, 40)
    other = FeatureNetwork("colours", "1" * 64, lambda pictures: 2 * colours(pictures), torch.device("cpu"))
    np.testing.assert_allclose(
        real_features(data, other, 40), 2 * real_features(data, network, 40), rtol=1e-6
    )


def test_more_pictures_than_there_are_is_an_error(data, network):
    with pytest.raises(DataError, match="has 40 pictures, 41 were asked for"):
        real_features(data, network, 41)


def test_features_in_bfloat16_are_kept_apart_from_those_in_float32(data):
    def project(pictures):
        return pictures.float().flatten(1) @ torch.ones(8 * 8 * 3, 4) / 7

    network = FeatureNetwork("sums", "0" * 64, project, torch.device("cpu"))
    exact, rounded = real_features(data, network, 10), real_features(data, in_bfloat16(network), 10)
    assert in_bfloat16(network).arithmetic == "bfloat16"
    assert 0 < np.abs(rounded / exact - 1).max() < 2**-8
    np.testing.assert_array_equal(real_features(data, network, 10), exact)
