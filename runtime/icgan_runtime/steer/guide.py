"""Searches over noise and mixture: for what a scorer likes, or for a picture that is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images, latents
from icgan_runtime.chain import Chain
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.images import Picture
from icgan_runtime.request import Request
from icgan_runtime.steer.likeness import likeness
from icgan_runtime.steer.scorers import Features, Scorer, scored
from icgan_runtime.steer.space import Space
from icgan_runtime.steer.steered import Steered

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

Progress = Callable[[int, float], None]  # iterations done of all searches, and the best score of this one

MAX_POPULATION = 1000
_SEARCH_COUNTER = 1 << 193  # of a sample's stream: blocks that neither noise nor ranks reach


@dataclass(frozen=True)
class Effort:
    """How long is searched: `iterations` of `population` images each."""

    iterations: int = 100
    population: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.iterations <= 100_000:
            raise RequestError("iterations", f"{self.iterations}, expected 1..100000")
        if not 4 <= self.population <= MAX_POPULATION:
            raise RequestError("population", f"{self.population}, expected 4..{MAX_POPULATION} images")


def quiet(done: int, best: float) -> None:
    """No progress."""


def guide(
    chain: Chain,
    embeddings: F32,
    scorer: Scorer,
    request: Request,
    effort: Effort,
    progress: Progress = quiet,
) -> Steered:
    """`request.n` images of the embeddings [M, D] for which `scorer` is high, best first.

    Each is the end of a search of its own, sample j of the seed; nothing is searched that no seed could draw.
    """
    try:
        from icgan_runtime.steer import evolution
    except ImportError:
        raise MissingExtraError("cmaes", "steer") from None
    space = Space(chain.model, embeddings, request)

    def score(points: F64) -> F64:
        return scored(scorer, chain.draw_latents(space.latents(space.noise(points), space.weights(points))))

    found = []
    for j in range(request.n):
        words = latents.philox_words(request.seed, request.first + j, 1, _SEARCH_COUNTER)
        done = j * effort.iterations
        found.append(
            evolution.search(
                score,
                np.zeros(space.dim),
                1.0,
                effort.iterations,
                effort.population,
                int(words[0, 0] >> np.uint64(32)),
                lambda iteration, best, done=done: progress(done + iteration, best),  # type: ignore[misc]
            )
        )
    found.sort(key=lambda each: -each.score)
    points = np.stack([each.point for each in found])
    noise, weights = space.noise(points), space.weights(points)
    return Steered(
        chain.draw_latents(space.latents(noise, weights)),
        np.array([each.score for each in found]),
        embeddings,
        request,
        noise=noise,
        weights=weights,
        history=tuple(each.history for each in found),
        source=chain.source,
    )


def invert(
    chain: Chain,
    picture: Picture,
    embeddings: F32,
    request: Request,
    effort: Effort,
    progress: Progress = quiet,
    features: Features | None = None,
) -> Steered:
    """As `guide`, for what is most like `picture`; scores are at most 0.

    Alike is what has a small squared distance of `features`, otherwise a high `likeness` and embedding.
    """
    shown = images.load(picture, chain.model.resolution, chain.model.preprocessing.crop)
    if features is None:
        seen = chain.embed([picture])[0]

        def alike(drawn: U8) -> F64:
            total: F64 = likeness(shown, drawn) + chain.embed(list(drawn)) @ seen - 1
            return total

    else:
        wanted = _rows(features, shown[None])

        def alike(drawn: U8) -> F64:
            total: F64 = -np.square(_rows(features, drawn) - wanted).sum(axis=1)
            return total

    return guide(chain, embeddings, alike, request, effort, progress)


def _rows(features: Features, pictures: U8) -> F64:
    """What the network sees, [N, F]. RequestError for anything else."""
    try:
        rows = np.asarray(features(pictures)).astype(np.float64)
    except (TypeError, ValueError):
        rows = np.array(np.nan)
    if rows.ndim != 2 or len(rows) != len(pictures):
        found = f"{rows.dtype}{list(rows.shape)}"
        raise RequestError("features", f"gave {found} for {len(pictures)} images, expected [N, F] numbers")
    return rows
