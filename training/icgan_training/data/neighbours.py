"""Neighbourhoods of unit embeddings, and the choice of instances; the one file that uses faiss.

IC-GAN (section 3.2) models the data as a mixture over neighbourhoods: the k pictures nearest to an instance
in feature space. On unit rows the inner product orders pictures as the Euclidean distance does.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.cpus import usable_cpus
from icgan_runtime.errors import MissingExtraError
from icgan_training.data.dataset import chunks, read_rows
from icgan_training.errors import DataError
from icgan_training.progress import Progress

try:
    import faiss
except ImportError as error:
    raise MissingExtraError("faiss", "train") from error
if faiss.omp_get_max_threads() > usable_cpus():  # it does not see a container's quota
    faiss.omp_set_num_threads(usable_cpus())

# Up to this many pictures every pair is compared; above it an inverted-file index looks at some cells only.
EXACT_UP_TO = 200_000
PROBED_CELLS = 64
ROWS_PER_CALL = 4096
KMEANS_ITERATIONS = 100
CANDIDATES_PER_CENTROID = 32
KMEANS_POINTS_PER_CENTROID = 200


@dataclass(frozen=True)
class Neighbourhoods:
    """Who is near whom."""

    indices: NDArray[np.int32]  # [N, k], nearest first, never the row itself
    radii: NDArray[np.float32]  # [N], Euclidean distance on the unit sphere to the k-th neighbour
    exact: bool  # every pair was compared


@dataclass(frozen=True)
class NeighbourStatistics:
    """What a person looks at before training on neighbourhoods."""

    k: int
    exact: bool
    mean_radius: float
    label_agreement: float | None  # share of neighbours with the instance's label; None without labels
    most_wanted: int  # in how many neighbourhoods the most popular picture lies
    never_wanted: float  # share of pictures that lie in no neighbourhood: training never shows them as real

    def __str__(self) -> str:
        agreement = "" if self.label_agreement is None else f", label agreement {self.label_agreement:.3f}"
        return (
            f"k {self.k} ({'exact' if self.exact else 'approximate'}), mean radius {self.mean_radius:.3f}"
            f"{agreement}, most wanted picture in {self.most_wanted} neighbourhoods, "
            f"{self.never_wanted:.1%} of pictures in none"
        )


def check_count(count: int, k: int) -> None:
    """Raise `DataError` unless each of `count` pictures can have k others as neighbours."""
    if k < 1:
        raise DataError(f"--neighbours is {k}, it must be at least 1")
    if count < 2:
        raise DataError("one picture has no neighbours: at least two are needed")
    if count < k + 1:
        raise DataError(
            f"{count} pictures cannot give {k} neighbours each: use --neighbours {count - 1} or less, "
            f"or add pictures (at least {k + 1})"
        )


def nearest_neighbours(
    embeddings: NDArray[np.float32], k: int, exact_up_to: int = EXACT_UP_TO
) -> Neighbourhoods:
    """The k nearest other rows of every unit row of `embeddings` [N, D], by inner product.

    A row is excluded from its own neighbourhood by its index, so an exact duplicate of it stays in. Memory
    is a few blocks of rows plus the result while the search is exact, N·D floats more above `exact_up_to`.
    Raises `DataError` when N < k + 1.
    """
    count = len(embeddings)
    check_count(count, k)
    exact = count <= exact_up_to
    index = None if exact else _inverted_file(embeddings)
    indices = np.empty((count, k), np.int32)
    radii = np.empty(count, np.float32)
    with Progress(count, "neighbours", "pictures") as progress:
        for rows in chunks(count, ROWS_PER_CALL):
            queries = read_rows(embeddings, rows)
            if index is None:
                scores, found = exact_search(queries, embeddings, k + 1, faiss.METRIC_INNER_PRODUCT)
            else:
                scores, found = index.search(queries, k + 1)
                short = np.flatnonzero((found < 0).any(axis=1))  # too few pictures in the cells it looked at
                if len(short):
                    metric = faiss.METRIC_INNER_PRODUCT
                    scores[short], found[short] = exact_search(queries[short], embeddings, k + 1, metric)
            own = np.arange(rows.start, rows.stop)[:, None]
            indices[rows], kth_score = _without_self(found, scores, own, k)
            radii[rows] = np.sqrt(np.maximum(2 - 2 * kth_score, 0))
            progress.advance(rows.stop - rows.start)
    return Neighbourhoods(indices, radii, exact)


def exact_search(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int, metric: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores [n, k] and indices [n, k] of the k best of all `rows`, best first, for every query.

    The rows are read in blocks and never held together, so memory does not depend on their number.
    """
    best = faiss.ResultHeap(len(queries), k, keep_max=metric == faiss.METRIC_INNER_PRODUCT)
    for block in chunks(len(rows), ROWS_PER_CALL):
        part = read_rows(rows, block)
        scores, found = faiss.knn(queries, part, min(k, len(part)), metric=metric)
        best.add_result(scores, found + block.start)
    best.finalize()
    return best.D, best.I


def nearest_rows(queries: NDArray[np.float32], rows: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Indices [n, k] of the k rows with the largest inner product with every query, best first."""
    return exact_search(queries, rows, k, faiss.METRIC_INNER_PRODUCT)[1]


def nearest_by_distance(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Squared distances [n, k] and indices [n, k] of the k rows nearest to every query, nearest first."""
    return exact_search(queries, rows, k, faiss.METRIC_L2)


def _inverted_file(embeddings: NDArray[np.float32]) -> faiss.Index:
    """An IVF index, which holds all rows in memory and looks only at the cells nearest to a query."""
    count, dim = embeddings.shape
    cells = min(int(4 * count**0.5), count)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = PROBED_CELLS
    sample = np.random.default_rng(0).choice(count, min(count, 40 * cells), replace=False)
    index.train(read_rows(embeddings, np.sort(sample)))
    for rows in chunks(count, ROWS_PER_CALL):
        index.add(read_rows(embeddings, rows))
    return index


def _without_self(
    found: NDArray[np.int64], scores: NDArray[np.float32], own: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """From k + 1 candidates per row drop the row itself, else the last; (indices [n, k], k-th scores [n])."""
    keep = found != own
    everyone_else = keep.all(axis=1)  # duplicates pushed the row out of its own candidates
    keep[everyone_else, k] = False
    return found[keep].reshape(-1, k), scores[keep].reshape(-1, k)[:, -1]


def neighbour_statistics(
    neighbourhoods: Neighbourhoods, labels: NDArray[np.int64] | None
) -> NeighbourStatistics:
    """Summary of the neighbourhoods of one data set, in blocks of small memory."""
    indices = neighbourhoods.indices
    wanted = np.zeros(len(indices), np.int64)
    agreeing = 0
    for rows in chunks(len(indices), ROWS_PER_CALL):
        wanted += np.bincount(indices[rows].ravel(), minlength=len(indices))
        if labels is not None:
            agreeing += int((labels[indices[rows]] == labels[rows, None]).sum())
    return NeighbourStatistics(
        k=indices.shape[1],
        exact=neighbourhoods.exact,
        mean_radius=float(neighbourhoods.radii.mean()),
        label_agreement=None if labels is None else agreeing / indices.size,
        most_wanted=int(wanted.max()),
        never_wanted=float((wanted == 0).mean()),
    )


def kmeans_centroids(embeddings: NDArray[np.float32], count: int, seed: int = 0) -> NDArray[np.float32]:
    """Centroids [count, D] of plain (not spherical) k-means on at most 200 points each.

    Raises `DataError` for more centroids than pictures.
    """
    if not 1 <= count <= len(embeddings):
        raise DataError(f"cannot choose {count} instances or clusters from {len(embeddings)} pictures")
    points = min(len(embeddings), count * KMEANS_POINTS_PER_CENTROID)
    rows = np.sort(np.random.default_rng(seed).choice(len(embeddings), points, replace=False))
    kmeans = faiss.Kmeans(
        embeddings.shape[1],
        count,
        niter=KMEANS_ITERATIONS,
        seed=seed % 2**31,  # an int of C
        min_points_per_centroid=1,  # small sets are fine, and no warning is needed
        max_points_per_centroid=KMEANS_POINTS_PER_CENTROID,
    )
    kmeans.train(read_rows(embeddings, rows))
    return np.asarray(kmeans.centroids)


def nearest_centroids(embeddings: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """The nearest of `centroids` [K, D] to every row of `embeddings` [N, D], by distance: int64 [N]."""
    labels = np.empty(len(embeddings), np.int64)
    for rows in chunks(len(embeddings), ROWS_PER_CALL):
        labels[rows] = faiss.knn(read_rows(embeddings, rows), centroids, 1)[1][:, 0]
    return labels


def kmeans_instances(embeddings: NDArray[np.float32], count: int, seed: int = 0) -> NDArray[np.int64]:
    """Instances that cover the data: the nearest real picture to each of `count` centroids, ascending ids.

    A picture nearest to two centroids would make the set smaller; the second centroid then takes its next
    nearest picture.
    """
    centroids = kmeans_centroids(embeddings, count, seed)
    width = min(CANDIDATES_PER_CENTROID, len(embeddings))
    candidates = nearest_by_distance(centroids, embeddings, width)[1]
    chosen: set[int] = set()
    for centroid, nearest in zip(centroids, candidates, strict=True):
        if chosen.issuperset(nearest.tolist()):  # rare: a crowd of centroids around few pictures
            nearest = nearest_by_distance(centroid[None], embeddings, len(chosen) + 1)[1][0]
        chosen.add(next(row for row in nearest.tolist() if row not in chosen))
    return np.array(sorted(chosen), np.int64)


def random_instances(total: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    """`count` different instances out of `total`, uniformly, ascending: int64 [count]. Raises `DataError`."""
    if not 1 <= count <= total:
        raise DataError(f"cannot choose {count} instances from {total} pictures")
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
