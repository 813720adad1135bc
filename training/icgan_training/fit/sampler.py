"""What one training step sees: instances, their neighbours and the noise (IC-GAN, §3; BigGAN).

Nothing here has a state. A batch is a function of (seed, step, part), drawn for the *whole* batch whatever
the number of processes, of which each takes its slice: a resumed run draws what it would have drawn, and two
processes train on the same pictures as one.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from icgan_training.data.dataset import PreparedDataset
from icgan_training.fit.augment import UNIFORMS

Indices = npt.NDArray[np.int64]
Part = Literal["real", "fake", "generator"]

PARTS: dict[Part, int] = {"real": 0, "fake": 1, "generator": 2}
"""The independent draws of a step: D's real pictures, D's generated images, G's own batch."""


@dataclass(frozen=True)
class Batch:
    """N draws of an instance and of one of its neighbours, with everything random that goes with them."""

    image: npt.NDArray[np.uint8] | None  # [N, R, R, 3], the neighbour's picture; only in the part "real"
    embedding: npt.NDArray[np.float32]  # [N, D], unit rows, the instance's
    label: Indices | None  # [N], the neighbour's
    noise: npt.NDArray[np.float32]  # [N, dim_z], unit normal
    uniforms: npt.NDArray[np.float32]  # [N, UNIFORMS] in [0, 1), for the augmentation


@dataclass(frozen=True)
class Holders:
    """For each picture the instances that hold it among their neighbours, as rows cut from one array."""

    instances: Indices  # [sum of counts]
    starts: Indices  # [N]
    counts: Indices  # [N], at least 1

    @classmethod
    def invert(cls, neighbours: npt.NDArray[np.int32]) -> "Holders":
        """From neighbours [N, k]. A picture that nobody holds holds itself, or it could never be drawn."""
        count, k = neighbours.shape
        held = np.asarray(neighbours, dtype=np.int64).reshape(-1)
        orphans = np.setdiff1d(np.arange(count), held)
        held = np.concatenate([held, orphans])
        by = np.concatenate([np.repeat(np.arange(count), k), orphans])
        counts = np.bincount(held, minlength=count)
        return cls(by[np.argsort(held, kind="stable")], np.cumsum(counts) - counts, counts)


@dataclass(frozen=True)
class Classes:
    """The pictures of each class that has any, as rows cut from one array."""

    pictures: Indices  # [N]
    starts: Indices  # [classes that occur]
    counts: Indices  # [classes that occur]

    @classmethod
    def of(cls, labels: Indices) -> "Classes":
        """From the class of every picture [N]."""
        _, counts = np.unique(labels, return_counts=True)
        return cls(np.argsort(labels, kind="stable"), np.cumsum(counts) - counts, counts)


class Sampler:
    """Draws batches from a prepared data set.

    `labels` [N] are what the model is given for the pictures, None for nothing. `neighbourhoods` is off for
    models without an instance: their pictures are drawn uniformly, where the neighbours of uniform instances
    would show popular pictures more often and some never. `balance` [N] are the classes of balanced sampling:
    first a class, uniformly, then a picture of it, then an instance that has this picture among its
    neighbours; None draws instances uniformly.
    """

    def __init__(
        self,
        data: PreparedDataset,
        labels: Indices | None,
        *,
        seed: int,
        dim_z: int,
        neighbourhoods: bool,
        flip_images: bool,
        flip_instances: bool,
        balance: Indices | None,
    ) -> None:
        self.data = data
        self.labels = labels
        self.seed = seed
        self.dim_z = dim_z
        self.neighbourhoods = neighbourhoods
        self.flip_images = flip_images
        self.flip_instances = flip_instances
        self._classes = None if balance is None else Classes.of(balance)
        inverted = neighbourhoods and balance is not None
        self._holders = Holders.invert(data.neighbours) if inverted else None

    def draw(self, step: int, part: Part, turn: int, count: int, rows: slice) -> Batch:
        """Rows `rows` of the `count` draws of one part of a step; `turn` tells D's steps apart."""
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, turn, PARTS[part], step]))
        instances, pictures = self._pairs(rng, count)
        mirror_instance, mirror_image = rng.random((2, count)) < 0.5
        noise = rng.standard_normal((count, self.dim_z), dtype=np.float32)
        uniforms = rng.random((count, UNIFORMS), dtype=np.float32)

        instances, pictures = instances[rows], pictures[rows]
        image = None
        if part == "real":
            image = np.asarray(self.data.images[pictures])
            if self.flip_images:
                mirrored = mirror_image[rows]
                image[mirrored] = image[mirrored, :, ::-1]
        embedding = np.asarray(self.data.embeddings[instances])
        if self.flip_instances:
            mirrored = mirror_instance[rows]
            embedding[mirrored] = self.data.embeddings_flipped[instances[mirrored]]
        label = None if self.labels is None else self.labels[pictures]
        return Batch(image, embedding, label, noise[rows], uniforms[rows])

    def _pairs(self, rng: np.random.Generator, count: int) -> tuple[Indices, Indices]:
        """`count` instances and, for each, one of its neighbours (itself is not among them)."""
        if self._classes is None:
            instances = rng.integers(len(self.data.images), size=count)
            if not self.neighbourhoods:
                return instances, instances
            columns = rng.integers(self.data.neighbours.shape[1], size=count)
            return instances, self.data.neighbours[instances, columns].astype(np.int64)
        classes, holders = self._classes, self._holders
        drawn = rng.integers(len(classes.counts), size=count)
        pictures = classes.pictures[classes.starts[drawn] + rng.integers(classes.counts[drawn])]
        if holders is None:
            return pictures, pictures
        instances = holders.instances[holders.starts[pictures] + rng.integers(holders.counts[pictures])]
        return instances, pictures
