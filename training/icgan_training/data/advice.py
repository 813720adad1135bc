"""What a prepared data set says of its own training, before hours are spent on it.

Scores are inner products of unit embeddings. A neighbourhood means something where its pictures are more
alike than two random ones. How much is counted as the way from the score of a random pair to 1, of which real
sets go a fifth to a half with ten neighbours (docs/training.md).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icgan_training.data.dataset import PreparedDataset, read_rows

FEW, VERY_FEW = 1000, 50  # pictures
EMPTY = 0.1  # of the way from a random pair to the same picture: less is no neighbourhood
BLIND = 0.9  # a random pair scores as much where the encoder hardly tells the pictures apart
NEAR_DUPLICATE = 0.95
MANY_DUPLICATES = 0.05  # of the pictures
COPY = 0.9999  # the same picture
NAMED_PAIRS = 3
_LOOKED_AT = 2000


@dataclass(frozen=True)
class Likeness:
    """How alike the pictures are: mean scores, and the pairs that are nearly one picture."""

    k: int
    nearest: float
    farthest: float  # of a neighbourhood: the k-th
    random: float  # of two pictures
    duplicates: float  # share of pictures whose nearest is nearly the same
    pairs: list[tuple[float, int, int]]  # score and rows of the most alike, best first

    def __str__(self) -> str:
        return (
            f"scores: nearest neighbour {self.nearest:.2f}, neighbour {self.k} {self.farthest:.2f}, "
            f"two random pictures {self.random:.2f}"
        )

    @property
    def meaning(self) -> float:
        """How far the k-th neighbour is on the way from a random picture, 0, to the same one, 1."""
        return (self.farthest - self.random) / max(1 - self.random, 1e-6)


def likeness(data: PreparedDataset) -> Likeness:
    """Measured on at most 2,000 pictures, evenly spread over the set."""
    count = data.meta.count
    rows = np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(np.int64)
    own = read_rows(data.embeddings, rows)

    def scores(others: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray((own * read_rows(data.embeddings, others)).sum(axis=1))

    near, far = (np.asarray(data.neighbours[rows, place]).astype(np.int64) for place in (0, -1))
    nearest = scores(near)
    shift = np.random.default_rng(0).integers(1, max(count, 2), len(rows))  # never the picture itself
    order = np.argsort(-nearest, kind="stable")
    pairs: dict[tuple[int, int], float] = {}
    for at in order[: 2 * NAMED_PAIRS]:
        pair = sorted((int(rows[at]), int(near[at])))
        pairs.setdefault((pair[0], pair[1]), float(nearest[at]))
    return Likeness(
        k=data.neighbours.shape[1],
        nearest=float(nearest.mean()),
        farthest=float(scores(far).mean()),
        random=float(scores((rows + shift) % count).mean()),
        duplicates=float((nearest >= NEAR_DUPLICATE).mean()),
        pairs=[(score, *pair) for pair, score in pairs.items()][:NAMED_PAIRS],
    )


def warnings(data: PreparedDataset, found: Likeness, fine_tuned: bool = False) -> list[str]:
    """A line for each thing that is likely to spoil a training on the data.

    fine_tuned: it starts from trained weights, for which fewer pictures do.
    """
    count, lines = data.meta.count, []
    if count < (VERY_FEW if fine_tuned else FEW):
        hope = "too few to learn from" if count < VERY_FEW else "few"
        lines.append(
            f"{count} pictures are {hope}: from scratch they give blobs, so start from trained weights "
            "(fit --from), and add pictures if you can (docs/training.md says what to expect)"
        )
    if found.random > BLIND:
        lines.append(
            f"two random pictures score {found.random:.2f} of 1: the encoder hardly tells these pictures "
            "apart, and neighbourhoods mean little; another --encoder may see more"
        )
    elif found.meaning < EMPTY and found.k > 1:
        lines.append(
            f"neighbour {found.k} scores {found.farthest:.2f}, two random pictures {found.random:.2f}: such "
            "neighbourhoods are hardly more alike than chance; take fewer neighbours (prepare --neighbours, "
            "or fit --set neighbours=)"
        )
    copies = bool(found.pairs) and found.pairs[0][0] >= COPY
    pairs = "; ".join(f"{data.title(a)} and {data.title(b)} {score:.3f}" for score, a, b in found.pairs)
    if found.duplicates <= MANY_DUPLICATES and copies:
        lines.append(f"some pictures are there twice: keep one of each; the most alike are {pairs}")
    if found.duplicates > MANY_DUPLICATES and found.random <= BLIND:
        lines.append(
            f"{found.duplicates:.0%} of the pictures have a near-duplicate (score {NEAR_DUPLICATE} or more): "
            f"the model will repeat those; keep one of each, such as {pairs}"
        )
    return lines
