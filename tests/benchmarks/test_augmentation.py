"""The classifier with few labels: what it is trained on, and that the command goes on where it stopped."""

import dataclasses
import importlib
import json
import sys

import numpy as np
import pytest
import torch

from icgan_training.data.dataset import PreparedDataset
from icgan_training.networks.checkpoint import save_weights
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.generator import Generator
from icgan_training.networks.presets import preset
from icgan_training.score.subject import Subject
from tests.training.conftest import make_prepared  # noqa: F401, a fixture

augmentation = importlib.import_module("benchmarks.augmentation")
TINY = preset("tiny").model
CPU = torch.device("cpu")
LABELS = [row % 4 for row in range(40)]


@pytest.fixture
def data(make_prepared):  # noqa: F811
    return PreparedDataset.open(make_prepared(resolution=TINY.resolution, labels=LABELS))


def subject(data: PreparedDataset, model: ModelConfig) -> Subject:
    torch.manual_seed(0)
    return Subject(Generator(model).eval(), data, data.labels, np.arange(40), CPU)


def striped(count, seed=0):
    """Pictures whose class is the direction of their stripes: flips and shifts leave it as it is."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    across = rng.integers(0, 256, (count, 32, 1, 3)).repeat(32, axis=2)
    down = rng.integers(0, 256, (count, 1, 32, 3)).repeat(32, axis=1)
    pictures = np.where(labels[:, None, None, None] == 0, across, down).astype(np.uint8)
    return augmentation.Pool(pictures, labels)


def test_labelled_pictures_are_as_many_of_every_class_and_others_for_another_seed():
    labels = np.repeat(np.arange(5), [10, 20, 30, 40, 50])
    one, same, other = (augmentation.labelled_rows(labels, 40, seed) for seed in (0, 0, 1))
    assert np.bincount(labels[one]).tolist() == [8] * 5
    assert len(set(one)) == 40
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("count", "message"), [(41, "a multiple of the 5 classes"), (60, "only 10 pictures, not 12")]
)
def test_labelled_pictures_that_cannot_be_had_are_refused(count, message):
    labels = np.repeat(np.arange(5), [10, 20, 30, 40, 50])
    with pytest.raises(SystemExit, match=message):
        augmentation.labelled_rows(labels, count, 0)


def test_variations_come_picture_by_picture_and_are_those_of_its_embedding_and_label(data, monkeypatch):
    told = subject(data, dataclasses.replace(TINY, class_count=4))
    rows = np.array([7, 3, 12])
    seen = []

    def record(noise, embedding, label):
        seen.append((noise, embedding, label))
        return torch.zeros(len(noise), 3, TINY.resolution, TINY.resolution)

    monkeypatch.setattr(told.generator, "forward", record)
    pictures = augmentation.variations(told, rows, augmentation.Recipe(variations=2), 0)
    assert pictures.shape == (6, TINY.resolution, TINY.resolution, 3)
    ((noise, embedding, label),) = seen
    assert np.array_equal(embedding, data.embeddings[rows.repeat(2)])
    assert label.tolist() == [3, 3, 3, 3, 0, 0]
    assert len(np.unique(noise[:, 0])) == 6


def test_variations_of_an_unconditional_model_are_refused(data):
    told = subject(data, dataclasses.replace(TINY, embedding_dim=None, class_count=1))
    with pytest.raises(SystemExit, match="unconditional"):
        augmentation.variations(told, np.arange(3), augmentation.Recipe(), 0)


def test_a_picture_is_mirrored_or_not_and_moved_by_at_most_four_pixels():
    picture = np.arange(32 * 32 * 3, dtype=np.int64).reshape(32, 32, 3) % 251
    picture = picture.astype(np.uint8)
    padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)), mode="edge")
    possible = {
        part.tobytes()
        for down in range(9)
        for across in range(9)
        for part in (
            padded[down : down + 32, across : across + 32],
            padded[down : down + 32, across : across + 32][:, ::-1],
        )
    }
    many = augmentation.flip_and_shift(np.stack([picture] * 2000), np.random.default_rng(0))
    assert {found.tobytes() for found in many} == possible


def test_every_picture_comes_once_before_any_comes_again():
    turns = augmentation.Turns(10, np.random.default_rng(0))
    taken = np.concatenate([turns.take(4) for _ in range(5)])
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))


def test_the_classifier_learns_what_labelled_pictures_show():
    recipe = augmentation.Recipe(steps=60, batch=32)
    network = augmentation.train_classifier(striped(64), striped(64), 0.0, 2, recipe, 0, CPU)
    assert augmentation.accuracy(network, striped(200, seed=1), CPU) > 0.9


def test_wrong_labels_of_variations_reach_the_classifier_by_their_share():
    recipe = augmentation.Recipe(steps=60, batch=32)
    wrong = striped(64, seed=2)
    wrong = augmentation.Pool(wrong.pictures, 1 - wrong.labels)
    network = augmentation.train_classifier(striped(64), wrong, 1.0, 2, recipe, 0, CPU)
    assert augmentation.accuracy(network, striped(200, seed=1), CPU) < 0.1


def test_the_table_compares_seed_by_seed():
    one, other = ({"labelled": 1000, "variations": 10, "truncation": None, "steps": s} for s in (1000, 500))
    lines = [
        {"run": "r", "recipe": recipe, "share": share, "seed": seed, "accuracy": accuracy}
        for recipe, seed, share, accuracy in [
            (one, 0, 0.0, 0.5),
            (one, 0, 0.5, 0.52),
            (one, 1, 0.0, 0.6),
            (one, 1, 0.5, 0.59),
            (other, 0, 0.0, 0.4),
        ]
    ]
    lines.append({"run": "better", "recipe": one, "share": 0.5, "seed": 1, "accuracy": 0.62})
    rows = augmentation.table(lines).splitlines()
    assert rows[2:] == [
        "| r | 1000 | 10 | – | 1000 | 0% | 2 | 0.550 ± 0.050 | – |",
        "| r | 1000 | 10 | – | 1000 | 50% | 2 | 0.555 ± 0.035 | +0.020, -0.010 |",
        "| r | 1000 | 10 | – | 500 | 0% | 1 | 0.400 | – |",
        "| better | 1000 | 10 | – | 1000 | 50% | 1 | 0.620 | +0.020 |",
    ]


@pytest.fixture
def command(data, tmp_path, monkeypatch):
    """Runs the program on an untrained model, with further arguments; returns its lines."""
    run, test, out = tmp_path / "tiny", tmp_path / "test", tmp_path / "out"
    save_weights(subject(data, TINY).generator, run / "generator.safetensors")
    (run / "config.json").write_text(json.dumps({"encoder": {"sha256": "a" * 64}}))
    test.mkdir()
    np.save(test / "images.npy", data.images[:8])
    np.save(test / "labels.npy", np.array(LABELS[:8]))
    note = {"name": "test", "class_names": data.meta.class_names}
    (test / "source.json").write_text(json.dumps(note))
    fixed = ["augmentation", str(run), str(data.path), "--test", str(test), "--out", str(out)]
    fixed += ["--labelled", "8", "--steps", "2", "--variations", "2", "--shares", "0.5"]

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", [*fixed, *arguments])
        augmentation.main()
        return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]

    return command


def test_the_command_writes_a_line_for_each_seed_and_share_and_goes_on_from_there(command, capsys):
    first = command("--seeds", "1")
    assert [(line["seed"], line["share"]) for line in first] == [(0, 0.0), (0, 0.5)]
    assert all(0 <= line["accuracy"] <= 1 and line["test_pictures"] == 8 for line in first)
    both = command("--seeds", "2")
    assert both[:2] == first
    assert [(line["seed"], line["share"]) for line in both[2:]] == [(1, 0.0), (1, 0.5)]
    assert "| tiny | 8 | 2 | – | 2 | 50% | 2 |" in capsys.readouterr().out


def test_without_shares_only_the_labelled_pictures_are_trained_on_and_nothing_is_generated(
    command, monkeypatch
):
    monkeypatch.delattr(augmentation, "variations")
    (line,) = command("--shares", "--seeds", "1")
    assert (line["share"], line["variations_recognised"]) == (0.0, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shares", "1.5"], r"--shares 1\.5 is outside"),
        (["--labelled", "6"], "--labelled is 6"),
        (["--variations", "0"], "--variations is 0"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(command, arguments, message):
    with pytest.raises(SystemExit, match=message):
        command(*arguments)


def test_test_pictures_of_other_classes_are_refused(data, tmp_path):
    np.save(tmp_path / "images.npy", data.images[:8])
    np.save(tmp_path / "labels.npy", np.array(LABELS[:8]))
    with pytest.raises(SystemExit, match="other classes"):
        augmentation.open_test(tmp_path, 0, data.meta.class_names)
