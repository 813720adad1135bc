"""Instances that a bundle draws: as docs/format.md says, everywhere the same, never from a damaged file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from statistics import NormalDist
from typing import cast

import numpy as np
import pytest

from icgan_runtime import Bank, Pipeline
from icgan_runtime.bundle.manifest import Manifest, describe_files
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.prior_files import read_prior
from icgan_runtime.chain import LocalChain
from icgan_runtime.errors import BundleError, RequestError
from icgan_runtime.marks.mark import read_marks
from icgan_runtime.origin.prove import NOT, PROVED, prove
from icgan_runtime.origin.recover import Candidates
from icgan_runtime.prior import Prior
from tests.golden.make_noise import philox_block

ALONE = Candidates(range(1), range(1), 1.0)


@pytest.fixture(scope="module")
def labelled(labelled_bundle):
    with Pipeline.load(labelled_bundle) as pipe:
        yield pipe


def prior_of(folder: Path) -> Prior:
    prior = read_prior(Bundle.open(folder))
    assert prior is not None
    return prior


def drawn_by_hand(folder, seed: int, sample: int) -> tuple[np.ndarray, int]:
    """Embedding and label by the text of the format: plain integers, another inverse of the normal."""
    centres, axes, scales, counts, labels = (
        np.load(folder / "prior" / f"{name}.npy").tolist()
        for name in ("centres", "axes", "scales", "counts", "labels")
    )
    words = [word for block in (1, 2) for word in philox_block((seed, sample), (block, 0, 0, 2))]
    u = [((word >> 11) + 0.5) * 2**-53 for word in words]
    pictures = [group for group, count in enumerate(counts) for _ in range(count)]
    group = pictures[int(u[0] * len(pictures))]
    named = [label for label, count in enumerate(labels[group]) for _ in range(count)]
    row = np.array(centres[group])
    for axis, scale, share in zip(axes, scales[group], u[2:], strict=False):
        row += NormalDist().inv_cdf(share) * scale * np.array(axis)
    return row / np.linalg.norm(row), named[int(u[1] * counts[group])]


def test_instances_are_drawn_as_the_format_says(labelled_bundle):
    prior = prior_of(labelled_bundle)
    seeds, samples = np.array([0, 0, 7, 2**63 - 1]), np.array([0, 5, 1, 2])
    rows, labels = prior.instances(seeds, samples)
    assert labels is not None
    for row, label, seed, sample in zip(rows, labels, seeds.tolist(), samples.tolist(), strict=True):
        expected = drawn_by_hand(labelled_bundle, seed, sample)
        np.testing.assert_allclose(row, expected[0], atol=1e-6)
        assert label == expected[1]


def test_groups_and_labels_are_drawn_as_often_as_they_have_pictures(labelled_bundle):
    prior = prior_of(labelled_bundle)
    assert prior.labels is not None
    rows, labels = dataclasses.replace(prior, scales=0 * prior.scales).instances(3, np.arange(20_000))
    group = (rows @ prior.centres.T).argmax(axis=1)
    assert labels is not None
    pairs = np.zeros_like(prior.labels)
    np.add.at(pairs, (group, labels), 1)
    np.testing.assert_allclose(pairs / 20_000, prior.labels / prior.counts.sum(), atol=0.015)


def test_without_a_picture_each_image_has_an_instance_of_its_own(labelled):
    whole = labelled.generate(n=5, seed=3)
    assert whole.images.shape == (5, 8, 8, 3)
    assert len(np.unique(whole.embeddings, axis=0)) == 5
    part = labelled.generate(n=2, seed=3, first=3)
    np.testing.assert_array_equal(part.images, whole.images[3:])
    for j, (embedding, label) in enumerate(zip(whole.embeddings, whole.labels, strict=True)):
        alone = labelled.generate_from(embedding, seed=3, first=j, label=int(label))
        np.testing.assert_array_equal(alone.images[0], whole.images[j])
    told = labelled.generate(n=5, seed=3, label=1)
    assert told.labels.tolist() == [1] * 5
    np.testing.assert_array_equal(told.embeddings, whole.embeddings)
    stored = labelled.generate(n=2, seed=3, condition="nearest", label=1)
    nearest = labelled.bank.embeddings[labelled.search(whole.embeddings[1], k=1)[0][0]]
    expected = labelled.generate_from(nearest, seed=3, first=1, label=1)
    np.testing.assert_array_equal(stored.images[1], expected.images[0])
    assert repr(whole) == "Drawn(5 images of 8 × 8, seed 3, each of its own instance)"


def test_a_picture_follows_its_own_instance_whether_or_not_a_prior_is_there(labelled, tmp_path):
    """The noise of a sample is what it was before instances were drawn."""
    picture = np.full((9, 9, 3), 7, np.uint8)
    expected = labelled.generate(picture, n=3, seed=3).images
    other = labelled.with_bank(dataclasses.replace(labelled.bank, ids=labelled.bank.ids + 1))
    np.testing.assert_array_equal(other.generate(picture, n=3, seed=3).images, expected)


def test_a_file_is_proved_by_drawing_instance_and_image_again(labelled, tmp_path):
    [sheet] = labelled.generate(n=3, seed=9).save(tmp_path / "sheet.png")
    *_, last = labelled.generate(n=3, seed=9).save(tmp_path / "single")
    for path in (sheet, last):
        data = path.read_bytes()
        marks = read_marks(data)
        assert marks.claim is not None
        assert prove(data, marks, labelled.chain, None, ALONE).verdict == PROVED
        lie = dataclasses.replace(marks, claim=dataclasses.replace(marks.claim, seed=8))
        assert prove(data, lie, labelled.chain, None, ALONE).verdict == NOT


def test_a_bundle_without_a_prior_says_how_to_get_one(tiny_bundle, labelled, tmp_path):
    with Pipeline.load(tiny_bundle) as pipe:
        with pytest.raises(RequestError, match=r"none given, and this bundle has no prior .* --prior"):
            pipe.generate(n=2)
        data = labelled.generate(n=1).save(tmp_path / "a.png")[0].read_bytes()
        with pytest.raises(RequestError, match="a prior drew, and this bundle has none"):
            prove(data, read_marks(data), cast(LocalChain, pipe.chain), None, ALONE)


def test_a_prior_file_that_was_changed_is_refused(labelled_bundle, copy_bundle):
    bundle = copy_bundle(labelled_bundle)
    np.save(bundle / "prior" / "scales.npy", 2 * np.load(bundle / "prior" / "scales.npy"))
    with pytest.raises(BundleError, match=r"prior/scales\.npy: SHA-256"):
        Pipeline.load(bundle)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("scales", lambda values: values * np.float32(np.nan), "not finite"),
        (
            "axes",
            lambda values: values[:1],
            r"holds float32\[1, 12\], prior/prior.json says float32\[2, 12\]",
        ),
        ("counts", lambda values: values - values.min(), "a group without pictures"),
        ("counts", lambda values: values + 1, "does not have one label for each picture"),
        ("prior.json", {"embedding_dim": 13}, "made for another encoder than tiny"),
        ("prior.json", {"least": 1}, "which counts.npy does not"),
        ("prior.json", {"axes": 0}, "axes is 0, expected 1..4096"),
        ("prior.json", {"classes": 2}, "has labels of 2 classes, the model 3"),
    ],
)
def test_a_prior_that_cannot_be_drawn_from_is_refused(labelled_bundle, copy_bundle, name, change, message):
    bundle = copy_bundle(labelled_bundle)
    path = bundle / "prior" / (name if "." in name else f"{name}.npy")
    if callable(change):
        np.save(path, change(np.load(path)))
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    manifest = Manifest.read(bundle)
    dataclasses.replace(manifest, files=describe_files(bundle)).write(bundle)
    with pytest.raises(BundleError, match=message):
        Pipeline.load(bundle)


def test_other_pictures_leave_a_prior_of_the_old_ones_behind(labelled_bundle, tmp_path, capsys):
    from icgan_runtime.banks.write import write_with_bank

    bundle = Bundle.open(labelled_bundle)
    bank = Bank.of_bundle(bundle)
    (tmp_path / "bank").mkdir()
    bank.write(tmp_path / "bank")
    write_with_bank(bundle, bank, None, 5, tmp_path)
    assert "prior/ is left out" in capsys.readouterr().err
    assert read_prior(Bundle.open(tmp_path)) is None
