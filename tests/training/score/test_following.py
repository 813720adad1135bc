"""How samples follow instance and label, by models that paint one of the two."""

import dataclasses

import pytest
import torch

from icgan_training.errors import ConfigError
from icgan_training.networks.generator import Generator
from icgan_training.score.evaluate import evaluate
from icgan_training.score.features import FeatureNetwork
from icgan_training.score.report import score_lines
from icgan_training.score.subject import EvaluationSettings
from tests.training.subjects import CPU, TINY, of_embedding, of_label, painter


@pytest.fixture
def reader():
    """An encoder whose embedding is the colour of the first pixel, as a direction."""

    def run(pictures):
        colour = pictures[:, 0, 0].float() / 255 - 0.5
        return torch.nn.functional.normalize(torch.nn.functional.pad(colour, (0, 13)), dim=1)

    return FeatureNetwork("reader", "2" * 64, run, CPU)


def test_a_model_that_paints_its_instance_follows_instances_and_no_labels(four_corners, reader):
    subject = dataclasses.replace(four_corners, generator=painter(of_embedding))
    settings = EvaluationSettings(metrics=("instance", "labels"), samples=200)
    scores = evaluate(subject, subject.data, settings, None, encoder=reader).scores
    assert scores["similarity"] == pytest.approx(1, abs=1e-5)
    assert scores["similarity_neighbour"] == pytest.approx(1, abs=1e-5)
    assert scores["similarity_other"] == pytest.approx(0, abs=0.1)
    assert (scores["label_followed"], scores["label_of_instance"], scores["label_of_real"]) == (0, 1, 1)


def test_a_model_that_paints_its_label_follows_labels_and_not_the_instance(four_corners, reader):
    subject = dataclasses.replace(four_corners, generator=painter(of_label))
    result = evaluate(
        subject, subject.data, EvaluationSettings(metrics=("labels",), samples=200), None, encoder=reader
    )
    assert (result.scores["label_followed"], result.scores["label_of_instance"]) == (1, 0)
    assert "200 samples" in result.notes[0]
    assert "drawn at random of 4" in result.notes[0]
    assert dict(score_lines(result))["samples of the label they were given ↑"] == "1"


def test_asking_how_a_model_follows_what_it_is_not_told_is_refused(subject, labelled):
    with pytest.raises(ConfigError, match=r"--metrics labels .* does not take both"):
        evaluate(subject, subject.data, EvaluationSettings(metrics=("labels",)), None)
    baseline = Generator(dataclasses.replace(TINY, class_count=4, embedding_dim=None)).eval()
    told = dataclasses.replace(labelled, generator=baseline)
    with pytest.raises(ConfigError, match=r"--metrics instance .* does not take instances"):
        evaluate(told, told.data, EvaluationSettings(metrics=("instance",)), None)
