"""Tiny models to score, and models that paint what they are told."""

import dataclasses

import torch

from icgan_training.networks.generator import Generator
from icgan_training.networks.presets import preset
from icgan_training.score.subject import EvaluationSettings

TINY = preset("tiny").model
CPU = torch.device("cpu")
FEW = EvaluationSettings(metrics=("fid", "kid", "prdc"), samples=50, instances=10)


def painter(colour):
    """A generator whose every sample shows the colour [n, 3] it makes of (embedding, label)."""

    class Painter(Generator):
        def forward(self, noise, embedding=None, label=None):
            levels = colour(embedding, label) / 127.5 - 1
            return levels[:, :, None, None].expand(-1, -1, TINY.resolution, TINY.resolution)

    return Painter(dataclasses.replace(TINY, class_count=4)).eval()


def of_embedding(embedding, label):
    return (embedding[:, :3] > 0) * 255.0


def of_label(embedding, label):
    return torch.tensor([[255.0, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]])[label]
