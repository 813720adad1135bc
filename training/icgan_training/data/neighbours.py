"""Neighbourhoods of unit embeddings, and the choice of instances; the one file that uses faiss.

IC-GAN (section 3.2) models the data as a mixture over neighbourhoods: the k pictures nearest to an instance
in feature space. On unit rows the inner product orders pictures as the Euclidean distance does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.cpus import usable_cpus
from icgan_runtime.errors import MissingExtraError
from icgan_runtime.files import atomic_file
from icgan_training.data.dataset import chunks, read_rows
from icgan_training.errors import DataError
from icgan_training.progress import Progress

try:
    import faiss
except ImportError as error:
    raise MissingExtraError("faiss", "train") from error
if faiss.omp_get_max_threads() > usable_cpus():  # it does not see a container's quota
    faiss.omp_set_num_threads(usable_cpus())

EXACT_UP_TO = 200_000  # pictures: up to this many every pair is compared
CELL_ROUNDS = 6  # of k-means
ROWS_PER_CALL = 4096
SPARE = (
    8  # candidates beyond the k wanted: a matrix product rounds otherwise with other threads or row counts
)
TOGETHER = 512  # pictures whose candidates are read at once, fewer where these are more than
MOST_HELD = 8192
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
            f"k {self.k} ({'exact' if self.exact else 'approximate'}), the last of them at a distance of "
            f"{self.mean_radius:.3f} on average (0: the same picture, {2**0.5:.2f}: nothing alike)"
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


def nearest_neighbours(embeddings: NDArray[np.float32], k: int) -> Neighbourhoods:
    """The k nearest other rows of every unit row of `embeddings` [N, D], by inner product, exactly.

    A row is excluded from its own neighbourhood by its index, so an exact duplicate of it stays in. Memory
    is a few blocks of rows plus the result. Raises `DataError` when N < k + 1.
    """
    count = len(embeddings)
    check_count(count, k)
    indices = np.empty((count, k), np.int32)
    radii = np.empty(count, np.float32)
    with Progress(count, "neighbours", "pictures") as progress:
        for rows in chunks(count, ROWS_PER_CALL):
            own = np.arange(rows.start, rows.stop)
            scores, indices[rows] = nearest_others(own, embeddings, k)
            radii[rows] = radii_of(scores[:, -1])
            progress.advance(rows.stop - rows.start)
    return Neighbourhoods(indices, radii, exact=True)


def radii_of(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Euclidean distances of unit rows from their inner products `scores`, of any shape."""
    return np.sqrt(np.maximum(2 - 2 * scores, 0))


def nearest_others(
    own: NDArray[np.int64], rows: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Scores and numbers [n, k] of the k of all `rows` nearest to each row in `own`, without itself."""
    wanted = min(k + 1 + SPARE, len(rows))
    _, candidates = exact_search(rows_at(rows, own), rows, wanted, faiss.METRIC_INNER_PRODUCT)
    return best_candidates(rows, own, candidates, k)


def best_candidates(
    rows: NDArray[np.float32], own: NDArray[np.int64], candidates: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Scores and numbers [n, k] of the best candidates of each row in `own`, by its own products with them.

    `candidates` [n, m] holds -1 where there are fewer; the row itself does not count. Of equal scores the
    smaller number comes first. Pair by pair, a score depends on the two rows alone, not on how many threads
    or other rows there are. A row with too few candidates is compared with all.
    """
    scores = np.empty((len(own), k), np.float32)
    near = np.empty((len(own), k), np.int32)
    candidates = np.sort(np.where(candidates == own[:, None], -1, candidates), axis=1)
    parts = [slice(start, start + TOGETHER) for start in range(0, len(own), TOGETHER)]
    while parts:
        part = parts.pop()
        mine = candidates[part]
        some = np.unique(mine)
        if len(some) > MOST_HELD and len(mine) > 1:
            middle = part.start + len(mine) // 2
            parts += [slice(part.start, middle), slice(middle, part.start + len(mine))]
            continue
        some = some[some >= 0]
        places = np.where(mine < 0, -1, np.searchsorted(some, mine))
        exact = scores_at(rows_at(rows, own[part]), read_rows(rows, some), places)
        best = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        scores[part] = np.take_along_axis(exact, best, 1)
        near[part] = np.take_along_axis(mine, best, 1)
    short = np.flatnonzero((candidates >= 0).sum(axis=1) < k)
    if len(short):
        scores[short], near[short] = nearest_others(own[short], rows, k)
    return scores, near


def rows_at(rows: NDArray[np.float32], numbers: NDArray[np.integer]) -> NDArray[np.float32]:
    """Rows in any order, read in ascending order."""
    order = np.argsort(numbers, kind="stable")
    found = np.empty((len(numbers), rows.shape[1]), np.float32)
    found[order] = read_rows(rows, np.asarray(numbers, np.int64)[order])
    return found


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


def scores_at(
    queries: NDArray[np.float32], rows: NDArray[np.float32], places: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Inner products [n, m] of each query with the rows at its `places` [n, m], -inf where one is -1.

    By faiss, pair by pair: a product of one row makes a BLAS wait for its threads, on a busy machine long.
    """
    scores = np.empty(places.shape, np.float32)
    faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]  # its stub says less
        faiss.swig_ptr(scores),
        faiss.swig_ptr(np.ascontiguousarray(queries)),
        faiss.swig_ptr(np.ascontiguousarray(rows)),
        faiss.swig_ptr(np.ascontiguousarray(places)),
        rows.shape[1],
        *places.shape,
    )
    return scores


def nearest_rows(queries: NDArray[np.float32], rows: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Indices [n, k] of the k rows with the largest inner product with every query, best first."""
    return exact_search(queries, rows, k, faiss.METRIC_INNER_PRODUCT)[1]


def nearest_by_distance(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Squared distances [n, k] and indices [n, k] of the k rows nearest to every query, nearest first."""
    return exact_search(queries, rows, k, faiss.METRIC_L2)


class CellIndex:
    """Rows in cells around centroids, four bits for every few components; the cells are trained once."""

    def __init__(self, index: faiss.IndexIVFPQFastScan) -> None:
        self._index = index

    def add(self, rows: NDArray[np.float32], first: int) -> None:
        """Rows number `first` and following."""
        self._index.add_with_ids(_padded(rows, self._index.d), np.arange(first, first + len(rows)))

    def absorb(self, other: "CellIndex") -> None:
        """Take over the rows of an index of the same cells, which is empty then."""
        self._index.merge_from(other._index, 0)

    def search(
        self, queries: NDArray[np.float32], count: int, probes: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Rough scores and numbers [n, count], -1 where the nearest `probes` cells hold fewer."""
        nearest = faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]  # its stub says less
        scores, rows = self._index.search(_padded(queries, self._index.d), count, params=nearest)
        return scores, rows

    def cells(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each cell that is not empty, with the numbers of its rows."""
        lists: Any = self._index.invlists
        for cell in range(self._index.nlist):
            if size := lists.list_size(cell):
                yield cell, faiss.rev_swig_ptr(lists.get_ids(cell), size).copy()

    def write(self, path: Path) -> None:
        """Write it, whole or not at all. Raises `DataError`."""
        try:
            with atomic_file(path) as partial:
                faiss.write_index(self._index, str(partial))
        except (OSError, RuntimeError) as error:  # the latter is what faiss says
            raise DataError(
                f"{path} could not be written ({' '.join(str(error).split())[:200]}): free some space and "
                "run the same command again"
            ) from error

    @classmethod
    def read(cls, path: Path) -> "CellIndex":
        """One that `write` has written."""
        index: Any = faiss.read_index(str(path))
        return cls(index)


def train_cells(sample: NDArray[np.float32], cells: int) -> CellIndex:
    """An empty index whose cells and codes suit unit rows such as `sample` [n, D]."""
    width = sample.shape[1]
    each = 8 if width >= 1024 else 4 if width >= 256 else 2  # components that share four bits
    width += -width % each
    quantizer: Any = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFPQFastScan(quantizer, width, cells, width // each, 4, faiss.METRIC_INNER_PRODUCT)
    index.own_fields = True
    quantizer.this.disown()
    index.cp.niter = CELL_ROUNDS
    for parameters in (index.cp, index.pq.cp):
        parameters.min_points_per_centroid = 1  # fewer are fine, and no warning is needed
    index.train(_padded(sample, width))
    return CellIndex(index)


def _padded(rows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    return rows if rows.shape[1] == width else np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


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
