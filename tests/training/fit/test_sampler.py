"""What the loop is given to train on."""

import dataclasses

import numpy as np
import pytest

from icgan_training.data.dataset import PreparedDataset
from icgan_training.fit.sampler import Holders, Sampler


def sampler_of(data, labels=None, *, seed=5, flip=False, balance=None, neighbourhoods=True):
    return Sampler(
        data,
        labels,
        seed=seed,
        dim_z=6,
        neighbourhoods=neighbourhoods,
        flip_images=flip,
        flip_instances=flip,
        balance=balance,
    )


@pytest.fixture
def data(make_prepared):
    return PreparedDataset.open(make_prepared(labels=[i % 4 for i in range(40)]))


def rows_of(array, rows):
    """The index in `array` of every row of `rows`."""
    return [int(np.flatnonzero((array == row).reshape(len(array), -1).all(axis=1))[0]) for row in rows]


def draw(sampler, step=1, part="real", turn=0, count=400, rows=slice(None)):
    return sampler.draw(step, part, turn, count, rows)


def test_the_real_picture_and_its_label_are_a_neighbours_and_the_embedding_is_the_instances(data):
    batch = draw(sampler_of(data, data.labels))
    instances, pictures = rows_of(data.embeddings, batch.embedding), rows_of(data.images, batch.image)
    assert all(j in data.neighbours[i] for i, j in zip(instances, pictures, strict=True))
    assert batch.label.tolist() == data.labels[pictures].tolist()


def test_every_instance_and_every_rank_of_neighbour_is_drawn_about_equally_often(data):
    batch = draw(sampler_of(data), count=8000)
    instances, pictures = rows_of(data.embeddings, batch.embedding), rows_of(data.images, batch.image)
    ranks = [data.neighbours[i].tolist().index(j) for i, j in zip(instances, pictures, strict=True)]
    assert np.bincount(instances, minlength=40) == pytest.approx(np.full(40, 200), rel=0.3)
    assert np.bincount(ranks) == pytest.approx(np.full(3, 8000 / 3), rel=0.1)


def test_a_batch_depends_on_seed_step_part_and_turn_only(data):
    one, other = sampler_of(data), sampler_of(data)
    draw(one, step=3)
    again = draw(one, step=9, turn=1)
    for mine, theirs in zip(
        dataclasses.astuple(again), dataclasses.astuple(draw(other, 9, "real", 1)), strict=True
    ):
        assert np.array_equal(mine, theirs)
    different = [
        draw(sampler_of(data, seed=6), 9, "real", 1),
        draw(one, 8, "real", 1),
        draw(one, 9, "fake", 1),
        draw(one, 9, "real", 0),
    ]
    for batch in different:
        assert not np.array_equal(batch.noise, again.noise)
        assert not np.array_equal(batch.embedding, again.embedding)


def test_slices_of_a_batch_are_the_whole_batch(data):
    sampler = sampler_of(data, data.labels, flip=True)
    whole = draw(sampler, count=12)
    halves = [draw(sampler, count=12, rows=rows) for rows in (slice(0, 6), slice(6, 12))]
    for name in ("image", "embedding", "label", "noise", "uniforms"):
        assert np.array_equal(np.concatenate([getattr(half, name) for half in halves]), getattr(whole, name))


def test_flips_mirror_half_of_the_pictures_and_half_of_the_instances_independently(data):
    plain = draw(sampler_of(data))
    flipped = draw(sampler_of(data, flip=True))
    image_kept = (flipped.image == plain.image).all(axis=(1, 2, 3))
    assert np.array_equal(flipped.image[~image_kept], plain.image[~image_kept, :, ::-1])
    instance_kept = (flipped.embedding == plain.embedding).all(axis=1)
    mirrored = rows_of(data.embeddings, plain.embedding[~instance_kept])
    assert np.array_equal(flipped.embedding[~instance_kept], data.embeddings_flipped[mirrored])
    assert 0.4 < image_kept.mean() < 0.6
    assert 0.4 < instance_kept.mean() < 0.6
    assert 0.4 < (image_kept == instance_kept).mean() < 0.6


def test_only_the_real_part_reads_pictures(data):
    assert draw(sampler_of(data), part="generator").image is None


def test_noise_is_unit_normal_and_uniforms_are_uniform(data):
    batch = draw(sampler_of(data), count=5000)
    assert batch.noise.dtype == batch.uniforms.dtype == np.float32
    assert batch.noise.mean() == pytest.approx(0, abs=0.02)
    assert batch.noise.std() == pytest.approx(1, abs=0.02)
    assert batch.uniforms.min() >= 0
    assert batch.uniforms.max() < 1
    assert batch.uniforms.mean(axis=0) == pytest.approx(np.full(7, 0.5), abs=0.02)


def test_balanced_draws_show_rare_classes_as_often_as_common_ones(make_prepared):
    labels = np.array([0] * 34 + [1] * 4 + [3] * 2)  # class 2 has no picture
    data = PreparedDataset.open(make_prepared(labels=labels.tolist()))
    batch = draw(sampler_of(data, labels, balance=labels), count=6000)
    assert np.bincount(batch.label) / 6000 == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=0.03)
    instances, pictures = rows_of(data.embeddings, batch.embedding), rows_of(data.images, batch.image)
    held = {int(j) for j in data.neighbours.ravel()}
    for i, j in zip(instances, pictures, strict=True):
        assert j in data.neighbours[i] if j in held else i == j


def test_holders_are_the_inverse_of_the_neighbours():
    holders = Holders.invert(np.array([[1, 2], [2, 0], [1, 0], [1, 2]], dtype=np.int32))
    rows = [
        holders.instances[start : start + count].tolist()
        for start, count in zip(holders.starts, holders.counts, strict=True)
    ]
    assert rows == [[1, 2], [0, 2, 3], [0, 1, 3], [3]]  # nobody holds 3, so it holds itself


def test_models_without_an_instance_see_every_picture_equally_often(make_prepared):
    data = PreparedDataset.open(make_prepared(labels=[i % 4 for i in range(40)], neighbours=1))
    batch = draw(sampler_of(data, data.labels, neighbourhoods=False), count=8000)
    pictures = rows_of(data.images, batch.image)
    assert np.bincount(pictures, minlength=40) == pytest.approx(np.full(40, 200), rel=0.3)
    assert batch.label.tolist() == [picture % 4 for picture in pictures]


def test_balanced_draws_without_instances_stay_in_the_class_they_drew(make_prepared):
    labels = np.array([0] * 36 + [1] * 4)
    data = PreparedDataset.open(make_prepared(labels=labels.tolist(), class_count=2))
    batch = draw(sampler_of(data, labels, balance=labels, neighbourhoods=False), count=4000)
    pictures = rows_of(data.images, batch.image)
    assert np.bincount(labels[pictures]) / 4000 == pytest.approx([0.5, 0.5], abs=0.03)
    assert np.bincount(pictures, minlength=40)[36:] == pytest.approx(np.full(4, 500), rel=0.2)
