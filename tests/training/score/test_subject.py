"""A model is shown and told what it was trained on, and samples are a function of the seed."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.labels import CENTROIDS, training_labels
from icgan_training.errors import ConfigError, DataError
from icgan_training.networks.checkpoint import save_weights
from icgan_training.networks.generator import Generator
from icgan_training.score.subject import (
    EvaluationSettings,
    draw,
    draw_noise,
    instance_pool,
    load_subject,
    repeat,
)
from tests.training.subjects import CPU, FEW, TINY


def test_samples_are_a_function_of_the_seed(subject):
    one, same, other = (
        draw(subject, EvaluationSettings(samples=20, instances=10, seed=seed)) for seed in (3, 3, 4)
    )
    assert np.array_equal(one.instances, same.instances)
    assert np.array_equal(one.noise, same.noise)
    assert not np.array_equal(one.noise, other.noise)


@pytest.mark.parametrize("choice", ["kmeans", "random"])
def test_as_many_instances_as_asked_are_chosen_once_and_all_of_them_drawn(subject, choice):
    pool = instance_pool(subject.data, EvaluationSettings(instances=10, choice=choice))
    assert len(set(pool)) == 10
    assert np.array_equal(instance_pool(subject.data, EvaluationSettings(instances=10, choice=choice)), pool)
    shown = dataclasses.replace(subject, pool=pool)
    assert set(draw(shown, EvaluationSettings(samples=500)).instances) == set(pool)


def test_samples_are_not_shortened_on_a_gpu(subject):
    shortened = []

    class Spy(Generator):
        def forward(self, noise, embedding=None, label=None):
            shortened.append(torch.backends.cudnn.allow_tf32)
            return super().forward(noise, embedding, label)

    spied = dataclasses.replace(subject, generator=Spy(TINY).eval())
    spied.generate(draw(spied, FEW), slice(0, 4))
    assert shortened == [False]


def test_the_two_choices_of_instances_differ_and_0_means_all(subject):
    kmeans, random = (
        instance_pool(subject.data, EvaluationSettings(instances=10, choice=c)) for c in ("kmeans", "random")
    )
    assert not np.array_equal(kmeans, random)
    assert np.array_equal(instance_pool(subject.data, EvaluationSettings(instances=0)), np.arange(60))


def test_instances_of_a_prior_are_drawn_as_a_bundle_draws_them(run_dir, subject):
    settings = EvaluationSettings(samples=30, prior=4, seed=2)
    drawing = load_subject(run_dir, subject.data.path, settings, CPU)
    assert drawing.prior is not None
    draws = draw(drawing, settings)
    expected, _ = drawing.prior.instances(2, np.arange(30))
    np.testing.assert_array_equal(draws.embeddings, expected)
    followed = dataclasses.replace(draws, embeddings=np.roll(expected, 1, axis=0))
    assert not np.array_equal(drawing.samples(draws), drawing.samples(followed))
    twice = repeat(drawing, draws, 2, settings).embeddings
    assert twice is not None
    np.testing.assert_array_equal(twice[::2], expected)


@pytest.mark.parametrize("instances", [0, 10], ids=["all instances", "kmeans instances"])
def test_the_label_is_that_of_a_neighbour_of_the_instance(subject, instances):
    settings = EvaluationSettings(samples=400, instances=instances)
    pool = instance_pool(subject.data, settings)
    told = dataclasses.replace(subject, labels=np.arange(60), pool=pool)  # a picture's label is its own row
    draws = draw(told, settings)
    assert draws.labels is not None
    assert (subject.data.neighbours[draws.instances] == draws.labels[:, None]).any(axis=1).all()
    for instance in pool:  # and every neighbour is drawn
        shown = set(draws.labels[draws.instances == instance])
        assert instances == 0 or shown == set(subject.data.neighbours[instance])


def test_truncated_noise_stays_inside_its_bound_and_fills_it():
    noise = draw_noise(np.random.default_rng(0), 1000, 20, 0.5)
    assert np.abs(noise).max() <= 1
    assert np.abs(noise).max() > 0.99
    assert abs(noise.mean()) < 0.02


def test_a_model_is_not_told_the_labels_of_other_classes(make_prepared, tmp_path):
    data = make_prepared("labelled", resolution=TINY.resolution, labels=[i % 3 for i in range(40)])
    generator = Generator(dataclasses.replace(TINY, class_count=4))
    save_weights(generator, tmp_path / "run" / "generator.safetensors")

    def trained_on(*names):
        (tmp_path / "run" / "config.json").write_text(json.dumps({"class_names": names}))
        return load_subject(tmp_path / "run", data, FEW, CPU)

    assert trained_on("class 0", "class 1", "class 2", "class 3", "class 4").labels is not None
    with pytest.raises(ConfigError, match=r"label 1 is 'class 1' in .*labelled and was 'dog' in training"):
        trained_on("class 0", "dog", "class 2", "class 3")


def test_a_baseline_is_told_the_labels_of_the_data_as_often_as_they_occur(make_prepared, tmp_path):
    labels = [0] * 40 + [1] * 17 + [2] * 3
    data = make_prepared("labelled", count=60, resolution=TINY.resolution, labels=labels)
    baseline = Generator(dataclasses.replace(TINY, class_count=4, embedding_dim=None))
    save_weights(baseline, tmp_path / "run" / "generator.safetensors")
    (tmp_path / "run" / "config.json").write_text("{}")
    told = draw(load_subject(tmp_path / "run", data, FEW, CPU), EvaluationSettings(samples=3000)).labels
    assert told is not None
    assert np.bincount(told) / 3000 == pytest.approx(np.array([40, 17, 3]) / 60, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ("ppl",)}, "--metrics ppl is unknown; known: fid"),
        ({"metrics": ()}, "--metrics names none; known: fid"),
        ({"samples": 1}, "--samples is 1"),
        ({"instances": -1}, "--instances is -1"),
        ({"reference": -1}, "--reference-pictures is -1"),
        ({"choice": "nearest"}, "--choice is nearest, it must be one of kmeans, random"),
        ({"truncation": 0.0}, r"--truncation is 0\.0"),
        ({"seed": -1}, "--seed is -1, it must not be negative"),
        (
            {"prior": 4, "metrics": ("instance",)},
            "--metrics instance asks for the picture that a sample follows",
        ),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        EvaluationSettings(**settings)


def test_a_run_without_encoder_is_shown_no_embeddings_of_another_width(run_dir, make_prepared):
    other = make_prepared("other", count=60, resolution=TINY.resolution, embedding_dim=24)
    (run_dir / "config.json").write_text('{"encoder": {"sha256": null}}')
    with pytest.raises(ConfigError, match=r"takes embeddings of 16 columns, .*other has 24"):
        load_subject(run_dir, other, FEW, CPU)


def test_a_run_finds_its_own_data_set(run_dir, subject):
    assert load_subject(run_dir, None, FEW, CPU).data.meta == subject.data.meta


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"data": 5}', "does not describe a run"),
        (None, "does not exist"),
        ("{}", "names no data set"),
    ],
)
def test_a_run_that_does_not_describe_itself_is_refused(run_dir, text, message):
    (run_dir / "config.json").unlink()
    if text is not None:
        (run_dir / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=f"config.json.* {message}"):
        load_subject(run_dir, None, FEW, CPU)


def test_a_data_set_of_another_encoder_is_refused(run_dir, make_prepared):
    other = make_prepared("other", resolution=TINY.resolution, encoder="b")
    with pytest.raises(
        ConfigError, match=r"trained with encoder aaaaaaaaaaaa, .* prepared with bbbbbbbbbbbb"
    ):
        load_subject(run_dir, other, FEW, CPU)


@pytest.fixture
def cluster_run(make_prepared, tmp_path):
    """A run directory of an untrained model that is told clusters."""
    data = PreparedDataset.open(make_prepared(resolution=TINY.resolution))
    model = dataclasses.replace(TINY, class_count=5, embedding_dim=None)
    folder = tmp_path / "run"
    training_labels(model, data, folder, source="clusters")
    save_weights(Generator(model), folder / "generator.safetensors")
    config = {
        "data": {"path": str(data.path)},
        "encoder": {"sha256": "a" * 64},
        "train": {"label_source": "clusters"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_clusters_are_not_looked_for_among_the_embeddings_of_another_encoder(cluster_run, make_prepared):
    assert load_subject(cluster_run, None, FEW, CPU).labels is not None
    other = make_prepared("other", resolution=TINY.resolution, encoder="b")
    with pytest.raises(ConfigError, match=r"trained with encoder aaaaaaaaaaaa"):
        load_subject(cluster_run, other, FEW, CPU)


def test_a_run_without_its_clusters_is_not_scored_with_others(cluster_run):
    (cluster_run / CENTROIDS).unlink()
    with pytest.raises(DataError, match=r"centroids.npy is missing"):
        load_subject(cluster_run, None, FEW, CPU)


def test_a_data_set_of_another_resolution_is_refused(run_dir, make_prepared):
    with pytest.raises(ConfigError, match=f"makes {TINY.resolution} px"):
        load_subject(run_dir, make_prepared("other", resolution=8), FEW, CPU)
