"""How samples follow what a model is given: its instance, and the label of another class."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from icgan_training.data.neighbours import nearest_rows
from icgan_training.errors import ConfigError
from icgan_training.networks.config import Conditions
from icgan_training.score.features import FeatureNetwork
from icgan_training.score.metrics import (
    InstanceFollowing,
    LabelFollowing,
    Scores,
    instance_similarity,
    share_of_class,
)
from icgan_training.score.subject import Draws, EvaluationSettings, Subject, draw, sample_features

FOLLOWING_SAMPLES = 1000
"""How many samples `instance` and `labels` look at, at most."""
LABEL_VOTERS = 10
"""Real pictures that vote on the class of a sample."""
_TOLD_LESS = "this model does not take"


def check_following(model: Conditions, settings: EvaluationSettings) -> None:
    """Raise `ConfigError` where a model is asked how it follows what it is not given."""
    if "instance" in settings.metrics and not model.takes_embedding:
        raise ConfigError(f"--metrics instance asks how samples follow an instance: {_TOLD_LESS} instances")
    if "labels" in settings.metrics and not (model.takes_embedding and model.takes_label):
        raise ConfigError(f"--metrics labels swaps the labels of instances: {_TOLD_LESS} both")


def following_samples(settings: EvaluationSettings) -> int:
    """How many samples `instance` and `labels` look at."""
    return min(settings.samples, FOLLOWING_SAMPLES)


def score_following(
    subject: Subject, settings: EvaluationSettings, encoder: FeatureNetwork
) -> tuple[Scores, list[str]]:
    """How samples follow instance and label, where that is wanted, and a note on how each is measured."""
    scores: Scores = {}
    notes = []
    if "instance" in settings.metrics:
        scores |= dataclasses.asdict(instance_following(subject, settings, encoder))
        notes.append(
            f"similarity: mean cosine of the embeddings of {following_samples(settings)} samples, by the "
            "encoder that the model is conditioned on; of two pictures without relation it is not 0"
        )
    if "labels" in settings.metrics:
        scores |= dataclasses.asdict(label_following(subject, settings, encoder))
        notes.append(
            f"labels: {following_samples(settings)} samples of an instance and the label of another class, "
            f"drawn at random of {subject.generator.config.class_count}; the class of a sample is that of "
            f"most of its {LABEL_VOTERS} nearest real pictures by the encoder"
        )
    return scores, notes


def instance_following(
    subject: Subject, settings: EvaluationSettings, encoder: FeatureNetwork
) -> InstanceFollowing:
    """Whether samples look like their instance, to the encoder."""
    draws = draw(subject, dataclasses.replace(settings, samples=following_samples(settings)))
    embeddings = subject.data.embeddings
    return instance_similarity(
        sample_embeddings(subject, draws, encoder),
        np.asarray(embeddings[draws.instances]),
        np.asarray(embeddings[draws.labelled]),  # a random neighbour of each instance
        draws.instances,
    )


def label_following(
    subject: Subject, settings: EvaluationSettings, encoder: FeatureNetwork
) -> LabelFollowing:
    """Whether samples of an instance with the label of another class are of that class, to the encoder."""
    draws = draw(subject, dataclasses.replace(settings, samples=following_samples(settings)))
    labels, classes = subject.labels, subject.generator.config.class_count
    assert labels is not None
    assert classes is not None
    own, rng = labels[draws.instances], np.random.default_rng([settings.seed, classes])
    given = (own + rng.integers(1, classes, size=len(own))) % classes
    swapped = dataclasses.replace(draws, labels=given)
    voters = min(LABEL_VOTERS, subject.data.meta.neighbours)
    found = nearest_rows(sample_embeddings(subject, swapped, encoder), subject.data.embeddings, voters)
    return LabelFollowing(
        label_followed=share_of_class(labels[found], given),
        label_of_instance=share_of_class(labels[found], own),
        label_of_real=share_of_class(labels[subject.data.neighbours[draws.instances, :voters]], own),
    )


def sample_embeddings(subject: Subject, draws: Draws, encoder: FeatureNetwork) -> NDArray[np.float32]:
    """Embeddings [n, D] of fresh samples, which are not kept."""
    (features,), _ = sample_features(subject, draws, [encoder], None)
    return features
