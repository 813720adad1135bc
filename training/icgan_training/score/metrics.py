"""Scores of generated images, from features: FID, KID, Inception Score, precision/recall, density/coverage.

Every function takes float32 features [N, D] of one network and returns plain numbers; which network, which
pictures and how many belong beside the number, and `evaluate` puts them there. What compares two sets raises
`DataError` for sets that are too small, and for NaN and infinity.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from icgan_runtime.errors import MissingExtraError
from icgan_training.data.dataset import chunks
from icgan_training.errors import DataError

Features = NDArray[np.float32]
Scores = dict[str, float | None]  # by name; None: could not be computed, a note says why

try:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance
except ImportError as error:
    raise MissingExtraError("torchmetrics", "evaluate") from error

ROWS_PER_CALL = 1024
ROUNDING = 1e-12  # of sums of squares in double precision, relative
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
IS_SPLITS = 10
ROWS_PER_UPDATE = 8192
ALONE: dict[str, Any] = {"sync_on_compute": False}
"""For torchmetrics: in a training of several processes one scores while the others wait for it elsewhere."""


class _Given(nn.Module):
    """Stands where torchmetrics expects a network: features go through as they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def frechet_distance(real: Features, fake: Features) -> float:
    """FID (Heusel et al. 2017): distance of two Gaussians fitted to the features; lower is better."""
    check_sets(real, fake)
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]), **ALONE)
    with _quiet():
        for features, is_real in ((real, True), (fake, False)):
            for rows in chunks(len(features), ROWS_PER_UPDATE):  # it doubles what it is given
                metric.update(torch.from_numpy(features[rows]), real=is_real)
        return float(metric.compute())


def kernel_distance(real: Features, fake: Features, seed: int = 0) -> tuple[float, float]:
    """KID (Bińkowski et al. 2018), mean and deviation over subsets; unbiased, so small sets are fine."""
    check_sets(real, fake)
    size = min(KID_SUBSET_SIZE, len(real), len(fake))
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(
            feature=_Given(real.shape[1]), subsets=KID_SUBSETS, subset_size=size, **ALONE
        )
        metric.update(torch.from_numpy(real), real=True)
        metric.update(torch.from_numpy(fake), real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def inception_score(logits: Features, seed: int = 0) -> tuple[float, float]:
    """IS (Salimans et al. 2016) of logits [N, classes], mean and deviation over splits; higher is better."""
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        metric = InceptionScore(feature=_Given(logits.shape[1]), splits=IS_SPLITS, **ALONE)
        metric.update(torch.from_numpy(logits))
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


@dataclass(frozen=True)
class Coverage:
    """How two sets of features lie in each other (Kynkäänniemi et al. 2019, Naeem et al. 2020)."""

    precision: float  # share of generated images inside the neighbourhood of some real one
    recall: float  # share of real pictures inside the neighbourhood of some generated one
    density: float  # in how many real neighbourhoods a generated image lies, divided by k; can exceed 1
    coverage: float  # share of real pictures whose neighbourhood holds a generated one


def coverage(real: Features, fake: Features, k: int = 5) -> Coverage:
    """Precision, recall, density and coverage with k-nearest-neighbour balls, in blocks of small memory.

    A ball holds its border, as Kynkäänniemi et al. have it: pictures at the k-th distance itself are inside,
    exact duplicates (of distance 0) among them, so that copies of a set score 1 however often it repeats.
    """
    check_sets(real, fake)
    if min(len(real), len(fake)) <= k:
        raise DataError(f"precision and recall with k = {k} need more than {k} pictures of each kind")
    of_real, of_fake = real.astype(np.float64), fake.astype(np.float64)
    real_radii, fake_radii = _squared_radii(of_real, k), _squared_radii(of_fake, k)
    in_real_ball = np.zeros(len(fake), np.int64)  # of how many real pictures
    in_fake_ball = np.zeros(len(real), bool)
    covered = np.zeros(len(real), bool)
    for start in range(0, len(real), ROWS_PER_CALL):
        rows = slice(start, start + ROWS_PER_CALL)
        distances, rounding = _squared_distances(of_real[rows], of_fake)
        inside = distances <= real_radii[rows, None] + rounding
        in_real_ball += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        in_fake_ball[rows] = (distances <= fake_radii[None] + rounding).any(axis=1)
    return Coverage(
        precision=float((in_real_ball > 0).mean()),
        recall=float(in_fake_ball.mean()),
        density=float(in_real_ball.mean() / k),
        coverage=float(covered.mean()),
    )


@dataclass(frozen=True)
class InstanceFollowing:
    """Whether samples look like the instance they are made for: mean cosines of unit embeddings."""

    similarity: float  # of a sample and its instance
    similarity_other: float  # of a sample and the instance of another one
    similarity_neighbour: float  # of a real neighbour of the instance and the instance
    own_is_nearer: float  # share of samples and other instances where the own is nearer; 0.5 by chance


def instance_similarity(
    samples: Features, instances: Features, neighbours: Features, rows: NDArray[np.int64]
) -> InstanceFollowing:
    """Compare embeddings [n, D] of samples with those of their instances and of a neighbour of each.

    rows: which picture the instance is [n]; samples of one instance are not compared with each other's.
    """
    check_sets(instances, samples)
    cosines = samples @ instances.T
    others = rows[:, None] != rows[None]
    if not others.any():
        raise DataError("all samples have one instance: there is no other one to compare with, use more")
    own = cosines.diagonal()
    return InstanceFollowing(
        similarity=float(own.mean()),
        similarity_other=float(cosines[others].mean()),
        similarity_neighbour=float((neighbours * instances).sum(axis=1).mean()),
        own_is_nearer=float((own[:, None] > cosines)[others].mean()),
    )


@dataclass(frozen=True)
class LabelFollowing:
    """Of what class samples are that were given another label than their instance has, as shares."""

    label_followed: float  # of the class they were given
    label_of_instance: float  # of the class of their instance
    label_of_real: float  # real pictures whose own class is found in the same way: the most to expect


def share_of_class(votes: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Share of the rows of votes [n, k], each for a class, that give most of them to their label [n].

    Of classes with equally many votes the one with the earliest vote wins.
    """
    counts = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)  # [n, k], votes for the class of each
    winners = votes[np.arange(len(votes)), counts.argmax(axis=1)]
    return float((winners == labels).mean())


def _squared_distances(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[Any, Any]:
    """Squared distances [n, m], and how much of them may be rounding: those of duplicates are not quite 0."""
    lengths = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)
    return lengths - 2 * (one @ other.T), ROUNDING * lengths


def _squared_radii(features: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Squared distance to the k-th nearest other row; the row itself is the nearest of k + 1."""
    radii = np.empty(len(features))
    for start in range(0, len(features), ROWS_PER_CALL):
        rows = slice(start, start + ROWS_PER_CALL)
        radii[rows] = np.partition(_squared_distances(features[rows], features)[0], k, axis=1)[:, k]
    return radii


def check_sets(real: Features, fake: Features) -> None:
    """Raise `DataError` for sets of fewer than two rows, and for NaN and infinity."""
    if len(real) < 2 or len(fake) < 2:
        raise DataError(f"scores compare sets of pictures, given {len(real)} real and {len(fake)} generated")
    for name, features in (("real", real), ("generated", fake)):
        if not np.isfinite(features).all():
            raise DataError(f"features of the {name} pictures hold NaN or infinity")


@contextmanager
def _quiet() -> Iterator[None]:
    """torchmetrics warns that features are kept in memory, which is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
