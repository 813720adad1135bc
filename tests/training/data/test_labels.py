"""Labels of a run: the data set's, a constant, or clusters whose centroids stay in the run directory."""

import dataclasses

import numpy as np
import pytest

from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.labels import CENTROIDS, CENTROIDS_HASH, training_labels
from icgan_training.errors import DataError
from icgan_training.networks.presets import preset

TINY = preset("tiny").model
CLUSTERS = dataclasses.replace(TINY, class_count=5, embedding_dim=None)


def test_labels_the_model_has_no_class_for_are_named(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared(labels=[i % 4 for i in range(40)]))
    model = dataclasses.replace(TINY, class_count=3)
    with pytest.raises(DataError, match=r"label 3 of picture 3 .* outside \[0, 3\)"):
        training_labels(model, data, tmp_path)


def test_a_model_of_instances_has_no_labels_and_an_unconditional_one_the_label_0(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    assert training_labels(TINY, data, tmp_path) is None
    unconditional = dataclasses.replace(TINY, class_count=1, embedding_dim=None)
    labels = training_labels(unconditional, data, tmp_path)
    assert labels is not None
    assert not labels.any()


def test_clusters_of_a_run_stay_what_they_were(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    first = training_labels(CLUSTERS, data, tmp_path, source="clusters", seed=0)
    again = training_labels(CLUSTERS, data, tmp_path, source="clusters", seed=1)  # k-means would differ
    assert first is not None
    assert again is not None
    assert first.tolist() == again.tolist()
    assert len(set(first)) > 1
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_that_has_lost_its_clusters_gets_no_others(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    with pytest.raises(DataError, match=r"centroids.npy is missing.* the clusters of this run are lost"):
        training_labels(CLUSTERS, data, tmp_path, source="clusters", begun=True)
    assert not (tmp_path / CENTROIDS).exists()


def test_other_pictures_get_the_clusters_of_the_run(make_prepared, tmp_path):
    data = PreparedDataset.open(make_prepared())
    labels = training_labels(CLUSTERS, data, tmp_path, source="clusters")
    centroids = np.load(tmp_path / CENTROIDS)
    centroids[[0, 1]] = centroids[[1, 0]]
    np.save(tmp_path / CENTROIDS, centroids)
    (tmp_path / CENTROIDS_HASH).unlink()
    swapped = training_labels(CLUSTERS, data, tmp_path, source="clusters")
    assert np.array_equal(swapped == 0, labels == 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"\x93NUMPY\x01\x00", "damaged"),
        (None, r"float64 \[2, 2\], expected finite float32 \[5, 16\]"),
    ],
    ids=["empty", "cut short", "another shape"],
)
def test_centroids_that_cannot_be_used_are_named(make_prepared, tmp_path, content, words):
    data = PreparedDataset.open(make_prepared())
    if content is None:
        np.save(tmp_path / CENTROIDS, np.zeros((2, 2)))
    else:
        (tmp_path / CENTROIDS).write_bytes(content)
    with pytest.raises(DataError, match=f"centroids.npy.*{words}"):
        training_labels(CLUSTERS, data, tmp_path, source="clusters")
