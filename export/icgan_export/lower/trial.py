"""What a lower precision is judged on: real pictures, embeddings and noise, none of them in `samples.npz`.

The loss is the share of the bounds (bounds.py) that a graph uses up, against the float32 graph on ONNX
Runtime: 1 - cosine of an encoder's worst row (and the nearest instances it misses), a generator's mean
squared error. Neither can fall by further rows, so that a graph is given up as soon as its first rows are
beyond what a choice may use up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from icgan_export.lower.bounds import COSINE, PSNR, RECALL, limit
from icgan_export.lower.compare import as_near, cosine
from icgan_export.lower.half import rounded
from icgan_export.lower.passes import float_pictures, transposed_in_phases
from icgan_export.lower.precision import MARGIN, Lowered, lower_to_half, lower_to_int8
from icgan_runtime import latents
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.errors import NumericsError

ROWS = 32
ENCODER_ROWS = 128  # its bound is on the worst row, which few rows do not show
INT8_PSNR = 40.0  # dB. At the 25 that are allowed the demo's FID moves by 1.5, of which 1.0 is allowed
CAUTION = 2.0  # the share of so few rows that miss their instance is a rough estimate
PART_ROWS = 8
RANKED_ROWS = 8  # enough to tell which node costs more than another
SEED = 20211  # noise of the trial; samples.npz uses seed 0
TRUNCATION = 1.0

Measure = Callable[[onnx.ModelProto, str], float]  # (graph, precision) -> share of the bounds


@dataclass(frozen=True, eq=False)
class Trial:
    """Inputs, the loss on them, and a quicker one, on a single thread, to rank single nodes with."""

    feeds: Mapping[str, NDArray[Any]]
    loss: Measure
    rank: Measure


def encoder_trial(
    bank_pictures: NDArray[np.uint8],
    bank_embeddings: NDArray[np.float32],
    encoder: onnx.ModelProto,
    recall: bool = False,
) -> Trial:
    """Instances spread over the bank of pictures [M, S, S, 3] and embeddings [M, D].

    Nodes are ranked by mean error, which is steadier than the worst row's.

    With `recall`, an instance also has to keep its nearest other one: for banks so dense that the cosine
    alone does not keep them.
    """
    chosen = _spread(len(bank_pictures), ENCODER_ROWS)
    pictures, own = bank_pictures[chosen], np.arange(len(chosen))
    reference = embeddings(encoder, pictures)

    def to_others(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = embeddings @ bank_embeddings.T
        scores[own, chosen] = -np.inf
        return scores

    exact = to_others(reference)

    def loss(model: onnx.ModelProto, precision: str) -> float:
        parts, drift = [], 0.0
        try:
            for rows, found in _in_parts(model, {"image": pictures}, "embedding"):
                worst = (1 - cosine(found, reference[rows])) / (1 - limit("encoder", precision, COSINE))
                drift = float(np.maximum(drift, worst))
                if not drift <= MARGIN:
                    return drift
                parts.append(found)
        except NumericsError:  # it overflowed
            return float("inf")
        if not recall:
            return drift
        missed = 1 - as_near(exact[own, to_others(np.concatenate(parts)).argmax(1)], exact.max(1))
        return max(drift, CAUTION * missed / (1 - limit("encoder", precision, RECALL)))

    def rank(model: onnx.ModelProto, precision: str) -> float:
        rows = _spread(len(pictures), RANKED_ROWS)
        try:
            found = _run(model, {"image": pictures[rows]})["embedding"]
        except NumericsError:
            return float("inf")
        drift = float(np.mean(1 - (found * reference[rows]).sum(1)))
        return drift / (1 - limit("encoder", precision, COSINE))

    return Trial({"image": pictures}, loss, rank)


def generator_trial(
    dim_z: int, classes: int, bank_embeddings: NDArray[np.float32], generator: onnx.ModelProto
) -> Trial:
    """The embeddings of instances spread over the bank, of [M, D], with noise up to the published bound of 2.

    A bank of fewer instances than `ROWS` lends the rest as what lies between two of them.
    """
    rows = _spread(len(bank_embeddings), ROWS)
    others = np.random.default_rng(SEED).choice(len(bank_embeddings), (ROWS - len(rows), 2))
    between = bank_embeddings[others].sum(1)
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    feeds: dict[str, NDArray[Any]] = {
        "noise": latents.noise(SEED, np.arange(ROWS), TRUNCATION, dim_z),
        "embedding": np.concatenate([bank_embeddings[rows], between]),
    }
    if classes:
        feeds["label"] = np.arange(ROWS, dtype=np.int64) % classes
    if any(value.name == "truncation" for value in generator.graph.input):  # and the noise is not bounded
        feeds["noise"] = latents.noise(SEED, np.arange(ROWS), latents.UNTRUNCATED, dim_z)
        feeds["truncation"] = np.full(ROWS, TRUNCATION, np.float32)
    return picture_trial(feeds, generator)


def picture_trial(feeds: Mapping[str, NDArray[Any]], generator: onnx.ModelProto) -> Trial:
    """Any inputs of a generator."""
    reference = _whole(_as_float(generator), feeds, "image")

    def allowed(precision: str) -> float:
        wanted = limit("generator", precision, PSNR)
        if precision == "int8":
            wanted = max(wanted, INT8_PSNR)
        return float(4 * 10 ** (-wanted / 10))  # the peak is 2, from -1 to 1

    def loss(model: onnx.ModelProto, precision: str) -> float:
        share = 0.0
        try:
            for rows, found in _in_parts(_as_float(model), feeds, "image"):
                squares = float(np.sum((found - reference[rows]) ** 2, dtype=np.float64))
                share += squares / reference.size / allowed(precision)
                if not share <= MARGIN:
                    break
        except NumericsError:  # it overflowed
            return float("inf")
        return share

    def rank(model: onnx.ModelProto, precision: str) -> float:
        rows = _spread(len(reference), RANKED_ROWS)
        try:
            chosen = {name: array[rows] for name, array in feeds.items()}
            found = _run(_as_float(model), chosen)["image"]
        except NumericsError:
            return float("inf")
        return float(np.mean((found - reference[rows]) ** 2)) / allowed(precision)

    return Trial(feeds, loss, rank)


def lower(graph: onnx.ModelProto, precision: str, ranges: Mapping[str, float], trial: Trial) -> Lowered:
    """`graph` at `precision`, within its bound on the trial's inputs."""

    def loss(model: onnx.ModelProto) -> float:
        return trial.loss(model, precision)

    def rank(model: onnx.ModelProto) -> float:
        return trial.rank(model, precision)

    if precision == "int8":
        return lower_to_int8(graph, ranges, loss, 1.0, rank)
    if precision == "bf16":
        graph = transposed_in_phases(graph)
    return lower_to_half(graph, ranges, loss, 1.0, rank, precision)


def embeddings(encoder: onnx.ModelProto, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What an encoder of any precision makes of pictures [N, S, S, 3]: [N, D]."""
    return _whole(encoder, {"image": pictures}, "embedding")


def _spread(count: int, rows: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(rows, count)).astype(np.int64))


def _as_float(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return float_pictures(copy)


def _in_parts(
    model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], output: str
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Rows of the feeds, and what the graph makes of them, `PART_ROWS` at a time."""
    count = len(next(iter(feeds.values())))
    with OrtSession(rounded(model).SerializeToString(), "trial.onnx", spinning=False) as session:
        for start in range(0, count, PART_ROWS):
            rows = slice(start, start + PART_ROWS)
            yield rows, session.run({name: array[rows] for name, array in feeds.items()})[output]


def _whole(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], output: str) -> NDArray[np.float32]:
    return np.concatenate([found for _, found in _in_parts(model, feeds, output)])


def _run(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    with OrtSession(rounded(model).SerializeToString(), "trial.onnx", threads=1) as session:
        return session.run(feeds)
