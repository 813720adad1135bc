"""What a data set is said to be before hours of training are spent on it."""

import numpy as np
import pytest
from PIL import Image

from icgan_runtime.names import Names
from icgan_training.cli import main
from icgan_training.data.advice import likeness, warnings
from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.neighbours import nearest_neighbours


@pytest.fixture
def of_embeddings(make_prepared):
    """A data set of the given embeddings, with their true neighbours."""

    def make(embeddings, k=10, name="data"):
        folder = make_prepared(
            name, count=len(embeddings), embedding_dim=embeddings.shape[1], neighbours=k, resolution=8
        )
        rows = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
        np.save(folder / "embeddings.npy", rows)
        np.save(folder / "neighbours.npy", nearest_neighbours(rows, k).indices)
        return PreparedDataset.open(folder)

    return make


def said(data):
    return " | ".join(warnings(data, likeness(data)))


def groups(count, noise, each=20, width=64):
    """Embeddings in groups of `each` around centres of their own."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(count // each, width)).repeat(each, axis=0)
    return centres + noise * rng.normal(size=(count, width))


def test_many_pictures_in_groups_are_sound(of_embeddings):
    data = of_embeddings(groups(1200, 0.5))
    found = likeness(data)
    assert warnings(data, found) == []
    assert found.nearest > found.farthest > found.random + 0.5


@pytest.mark.parametrize(
    ("count", "words"), [(40, "40 pictures are too few to learn from"), (400, "400 pictures are few")]
)
def test_few_pictures_are_said_to_be_few(of_embeddings, count, words):
    assert words in said(of_embeddings(groups(count, 0.5)))


def test_neighbours_that_are_no_more_alike_than_chance_are_named_with_the_fix(of_embeddings):
    chance = np.random.default_rng(1).normal(size=(100, 64))
    words = said(of_embeddings(chance, k=60))
    assert "neighbour 60 scores" in words
    assert "fit --set neighbours=" in words
    wide = of_embeddings(groups(1200, 0.5, width=512), k=60, name="wide")
    assert "hardly more alike than chance" in said(wide), "groups of 20 have no 60 neighbours"
    assert said(wide.nearest(10)) == "", "the first ten are sound"


def test_an_encoder_that_sees_no_difference_is_named(of_embeddings):
    alike = 1 + 0.1 * np.random.default_rng(2).normal(size=(1200, 64))
    words = said(of_embeddings(alike))
    assert "the encoder hardly tells these pictures apart" in words
    assert "near-duplicate" not in words, "they only look so to it"


def test_near_duplicates_are_counted_and_the_nearest_pairs_named(of_embeddings):
    rows = groups(1200, 0.5)
    rows[100:200] = rows[:100] + 0.05 * np.random.default_rng(3).normal(size=(100, 64))
    rows[100] = rows[0]
    data = of_embeddings(rows)
    assert "17% of the pictures have a near-duplicate" in said(data)
    assert "row 0 and row 100 1.000" in said(data)
    object.__setattr__(data, "names", Names.of(f"{row}.jpg" for row in range(1200)))
    assert "0.jpg and 100.jpg 1.000" in said(data)


def test_a_single_copy_is_named_too(of_embeddings):
    rows = groups(1200, 0.5)
    rows[700] = rows[3]
    words = said(of_embeddings(rows))
    assert "some pictures are there twice" in words
    assert "row 3 and row 700 1.000" in words


def test_the_command_draws_neighbourhoods_and_repeats_the_warnings(make_prepared, tmp_path, capsys):
    data = make_prepared(count=40, neighbours=6, labels=[0, 1] * 20)
    out = tmp_path / "sheet.png"
    assert main(["neighbours", str(data), "--out", str(out), "--rows", "3", "-k", "4"]) == 0
    printed = capsys.readouterr().out
    assert "two random pictures" in printed
    assert "warning: 40 pictures are too few" in printed
    with Image.open(out) as opened:
        sheet = np.asarray(opened)
    height, width = 128 + 2 * 15, 128 + 8 + 4 * (128 + 2)  # pictures of 32 px, four times as large
    assert sheet.shape == (3 * height, width, 3)
    opened_set = PreparedDataset.open(data)
    np.testing.assert_array_equal(sheet[:128:4, :128:4], opened_set.images[0])
    last = opened_set.images[opened_set.neighbours[0, -1]]
    np.testing.assert_array_equal(sheet[:128:4, -130:-2:4], last)
    for words in (["--rows", "0"], ["--out", "a.txt"]):
        assert main(["neighbours", str(data), "--out", str(out), *words]) == 1
