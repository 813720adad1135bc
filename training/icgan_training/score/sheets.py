"""Sheets of samples of one model: alone, beside instances, of every label, over what they may copy."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.grid import sample_grid, tiled
from icgan_training.score.copies import Pair
from icgan_training.score.subject import Draws, EvaluationSettings, Subject, draw, repeat

GRID_ROWS, GRID_COLUMNS = 8, 8
GRID_LABELS = 16
"""Columns of the sheet of labels, at most."""


def plain_grid(subject: Subject, settings: EvaluationSettings, columns: int) -> NDArray[np.uint8]:
    """Samples alone, each of another instance and noise, in rows of `columns`, as one picture."""
    samples = subject.samples(draw(subject, settings))
    return tiled(samples.reshape(-1, columns, *samples.shape[1:]))


def example_grid(subject: Subject, settings: EvaluationSettings) -> NDArray[np.uint8]:
    """Instances left, samples right, as one picture."""
    draws = draw(subject, dataclasses.replace(settings, samples=GRID_ROWS))
    several = repeat(subject, draws, GRID_COLUMNS, settings)
    samples = subject.samples(several)
    size = samples.shape[1]
    instances = np.asarray(subject.data.images[draws.instances])
    return sample_grid(instances, samples.reshape(GRID_ROWS, GRID_COLUMNS, size, size, 3))


def label_grid(subject: Subject, settings: EvaluationSettings) -> NDArray[np.uint8] | None:
    """The same instances with other labels, as one picture; None for a model that does not take both.

    Left the instances of `example_grid`, on top a real picture of each class (of at most `GRID_LABELS`,
    evenly spaced), below it samples of that label. All samples of a row share their noise.
    """
    model, labels = subject.generator.config, subject.labels
    if not (model.takes_embedding and model.takes_label) or labels is None:
        return None
    present = np.unique(labels)
    spaced = np.linspace(0, len(present) - 1, min(GRID_LABELS, len(present))).round().astype(np.int64)
    shown = present[spaced]
    draws = draw(subject, dataclasses.replace(settings, samples=GRID_ROWS))
    every = Draws(
        instances=draws.instances.repeat(len(shown)),
        labelled=draws.labelled.repeat(len(shown)),
        labels=np.tile(shown, GRID_ROWS),
        noise=draws.noise.repeat(len(shown), axis=0),
        embeddings=None if draws.embeddings is None else draws.embeddings.repeat(len(shown), axis=0),
    )
    samples = subject.samples(every)
    images = subject.data.images
    return sample_grid(
        np.asarray(images[draws.instances]),
        samples.reshape(GRID_ROWS, len(shown), *samples.shape[1:]),
        above=np.stack([images[np.flatnonzero(labels == label)[0]] for label in shown]),
    )


def copies_grid(
    subject: Subject, reference: PreparedDataset, settings: EvaluationSettings, closest: Sequence[Pair]
) -> NDArray[np.uint8]:
    """The samples that came closest to a real picture, below each that picture, as one picture.

    settings: those of the evaluation that found them; the samples are drawn again.
    """
    samples = subject.generate(draw(subject, settings), np.array([pair.sample for pair in closest]))
    pictures = reference.images[[pair.picture for pair in closest]]
    columns = min(GRID_COLUMNS, len(closest))
    whole = len(closest) // columns * columns
    pairs = [each[:whole].reshape(-1, columns, *each.shape[1:]) for each in (samples, pictures)]
    return tiled(np.stack(pairs, axis=1).reshape(-1, columns, *samples.shape[1:]))
