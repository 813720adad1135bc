"""The best of many draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.chain import MAX_BATCH, Chain
from icgan_runtime.errors import RequestError
from icgan_runtime.request import MAX_SAMPLES, Request, pages
from icgan_runtime.steer.scorers import Scorer, scored
from icgan_runtime.steer.steered import Steered

F32 = NDArray[np.float32]


def rank(chain: Chain, embedding: F32, scorer: Scorer, request: Request, of: int) -> Steered:
    """The `request.n` best of `of` samples of its seed, best first; of equal ones the earlier sample.

    They follow an embedding [1, D]. A batch and the best so far are held at any time.
    """
    if not request.n <= of <= MAX_SAMPLES:
        raise RequestError("of", f"{of}, expected {request.n}..{MAX_SAMPLES}, of which {request.n} are kept")
    side = chain.model.resolution
    images, scores = np.empty((0, side, side, 3), np.uint8), np.empty(0)
    samples, source = np.empty(0, np.int64), chain.source
    for page in pages(of, MAX_BATCH):
        part = replace(request, n=len(page), first=request.first + page.start)
        result = chain.generate_from(embedding, part)
        source = result.source or source
        images = np.concatenate([images, result.images])
        scores = np.concatenate([scores, scored(scorer, result.images)])
        samples = np.concatenate([samples, part.first + np.arange(part.n)])
        best = np.argsort(-scores, kind="stable")[: request.n]  # the earlier of equal ones
        images, scores, samples = images[best], scores[best], samples[best]
    return Steered(images, scores, embedding, request, samples=samples, source=source)
