"""Does a bundle still draw what torch draws? Every graph at every precision, and the whole chain of them.

The reference is `samples.npz`: pinned pictures, noise and labels with the answers torch gave in float32 when
the bundle was written. Torch is not needed here.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from icgan_export.check.samples import Samples
from icgan_export.lower.bounds import (
    COSINE,
    LARGEST_ACTIVATION,
    MAX_ERROR,
    NEAREST,
    PSNR,
    RECALL,
    SCORE_ERROR,
)
from icgan_export.lower.compare import Comparison, as_near, compared, cosine, recall
from icgan_export.lower.half import TYPES, rounded
from icgan_export.lower.index import nearest
from icgan_export.lower.passes import float_pictures
from icgan_export.lower.precision import activation_ranges
from icgan_export.lower.skeleton import with_shapes
from icgan_runtime.backends.base import Session, run_in_batches
from icgan_runtime.backends.ort import OrtSession
from icgan_runtime.backends.select import read_graph
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import GraphEntry
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.verify import psnr, to_bytes

BATCH = 16


@dataclass(frozen=True, eq=False)
class Report:
    """All that was compared, and the pictures behind it."""

    bundle: str
    comparisons: tuple[Comparison, ...]
    seconds: float
    reference: NDArray[np.uint8] = field(repr=False)  # [P, R, R, 3], what torch drew
    drawn: Mapping[str, NDArray[np.uint8]] = field(repr=False)  # precision -> the same by the whole chain
    # graph -> largest magnitude of each activation that is FP16 there, in the order of the graph
    activations: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)

    @property
    def passed(self) -> bool:
        """Whether no bound is missed."""
        return all(comparison.passed for comparison in self.comparisons)

    @property
    def failures(self) -> list[Comparison]:
        """Missed bounds, in the order of the comparisons."""
        return [comparison for comparison in self.comparisons if not comparison.passed]

    def without(self, precisions: Collection[str]) -> Report:
        """The same of the other precisions alone."""
        return replace(
            self,
            comparisons=tuple(found for found in self.comparisons if found.precision not in precisions),
            drawn={name: images for name, images in self.drawn.items() if name not in precisions},
            activations={
                file: largest
                for file, largest in self.activations.items()
                if not any(f".{precision}." in file for precision in precisions)
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; infinity (two equal pictures) becomes null."""
        rows = []
        for found in self.comparisons:
            row = asdict(found) | {"passed": found.passed}
            rows.append(row | {"value": found.value if np.isfinite(found.value) else None})
        return {"passed": self.passed, "seconds": round(self.seconds, 2), "checks": rows}

    def table(self) -> str:
        """For the terminal."""
        lines = [f"{'stage':<10} {'precision':<9} {'what':<24} {'value':>10}   {'bound':<12}"]
        for found in self.comparisons:
            sign = ">=" if found.at_least else "<="
            bound = "" if found.bound is None else f"{sign} {found.bound:g}"
            mark = "" if found.passed else "  MISSED"
            where = f"{found.stage:<10} {found.precision:<9} {found.what:<24}"
            lines.append(f"{where} {found.value:>10.4g}   {bound:<12}{mark}")
        return "\n".join(line.rstrip() for line in lines)


def verify(path: Path) -> Report:
    """Compare every graph of a bundle with its samples. Raises BundleError for a bundle that is not sound."""
    started = time.perf_counter()
    bundle = Bundle.open(path)
    samples = Samples.read(bundle)
    bank = Bank.of_bundle(bundle)
    found: list[Comparison] = []
    embeddings: dict[str, NDArray[np.float32]] = {}
    drawn: dict[str, NDArray[np.uint8]] = {}
    activations: dict[str, Mapping[str, float]] = {}
    for entry in (entry for entry in bundle.manifest.graphs if entry.precision == "fp16"):
        activations[entry.file] = half_activations(bundle, entry, samples)
        largest = max(activations[entry.file].values(), default=0.0)
        found.append(compared(entry.role, "fp16", LARGEST_ACTIVATION, largest))
    for entry in entries_of(bundle, "encoder"):
        with exact_session(bundle, entry) as session:
            embeddings[entry.precision] = in_batches(session, {"image": samples.picture})["embedding"]
        found += compare_encoder(embeddings[entry.precision], samples, bank, entry.precision)
    for entry in entries_of(bundle, "lookup"):
        with exact_session(bundle, entry) as session:
            found += compare_lookup(in_batches(session, {"embedding": samples.embedding}), samples, bank)
    for entry in entries_of(bundle, "generator"):
        count = len(samples.noise)
        with exact_session(bundle, entry, as_float=True) as session:
            given = _draw(session, samples, samples.embedding[:count])
            found += compare_pictures(given, samples.image, "generator", entry.precision)
            embedding = embeddings.get(entry.precision, embeddings["fp32"])
            chained = _draw(session, samples, embedding[:count])
            found += compare_pictures(chained, samples.image, "chain", entry.precision)
            drawn[entry.precision] = to_bytes(chained)
    seconds = time.perf_counter() - started
    return Report(str(path), tuple(found), seconds, to_bytes(samples.image), drawn, activations)


def half_activations(bundle: Bundle, entry: GraphEntry, samples: Samples) -> dict[str, float]:
    """What the float32 graph gives where the graph of `entry` has FP16: its largest magnitude per tensor."""
    graph = with_shapes(onnx.load_from_string(read_graph(bundle, entry))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    exact = onnx.load_from_string(read_graph(bundle, bundle.manifest.graph(entry.role, "fp32")))
    ranges = activation_ranges(exact, samples.feeds(entry))
    made = [name for node in graph.node for name in node.output]
    return {name: ranges[name] for name in made if name in ranges and types.get(name) == TensorProto.FLOAT16}


def compare_encoder(
    found: NDArray[np.float32], samples: Samples, bank: Bank, precision: str
) -> list[Comparison]:
    """Embeddings [Q, D] against torch's, and what their drift does to the neighbours."""
    ids, _ = nearest(bank.embeddings, bank.ids, found, samples.ids.shape[1])
    values = {
        MAX_ERROR: float(np.abs(found - samples.embedding).max()),
        COSINE: cosine(found, samples.embedding),
        RECALL: nearest_kept(ids, samples, bank),
        "recall@10 on the bank": recall(ids, samples.ids, 10),
    }
    return [compared("encoder", precision, what, value) for what, value in values.items()]


def nearest_kept(ids: NDArray[np.int64], samples: Samples, bank: Bank) -> float:
    """Share of pictures whose first id, of [Q, k], is the nearest by torch's embedding or ties with it."""
    rows = np.minimum(bank.rows(ids[:, 0]), len(bank) - 1)
    scores = (samples.embedding * bank.embeddings[rows]).sum(1)
    return as_near(np.where(bank.ids[rows] == ids[:, 0], scores, -np.inf), samples.scores[:, 0])


def compare_lookup(found: Mapping[str, NDArray[Any]], samples: Samples, bank: Bank) -> list[Comparison]:
    """Neighbours of torch's embeddings by the graph, against numpy's."""
    k = samples.ids.shape[1]
    values = {
        NEAREST: nearest_kept(found["ids"], samples, bank),
        f"recall@{k}": recall(found["ids"], samples.ids, k),
        SCORE_ERROR: float(np.abs(found["scores"] - samples.scores).max()),
    }
    return [compared("lookup", "fp32", what, value) for what, value in values.items()]


def compare_pictures(
    found: NDArray[np.float32], reference: NDArray[np.float32], stage: str, precision: str
) -> list[Comparison]:
    """Pictures [P, 3, R, R] in [-1, 1] against torch's; the chain adds the encoder's drift to them."""
    error = np.abs(found - reference)
    values = {
        MAX_ERROR: float(error.max()),
        "mean error": float(error.mean()),
        PSNR: psnr(to_bytes(found), to_bytes(reference)),
    }
    return [compared(stage, precision, what, value) for what, value in values.items()]


def in_batches(session: Session, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run all rows, BATCH at a time."""
    return run_in_batches(session, feeds, BATCH)


def _draw(session: Session, samples: Samples, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    feeds: dict[str, NDArray[Any]] = {"noise": samples.noise, "embedding": embedding}
    if samples.label is not None:
        feeds["label"] = samples.label
    if samples.truncation is not None:
        feeds["truncation"] = samples.truncation
    image: NDArray[np.float32] = in_batches(session, feeds)["image"]
    return image


def entries_of(bundle: Bundle, role: str) -> list[GraphEntry]:
    """The graphs of one role, at every precision."""
    return [entry for entry in bundle.manifest.graphs if entry.role == role]


def exact_session(bundle: Bundle, entry: GraphEntry, as_float: bool = False) -> OrtSession:
    """A session that shows what the graph's own precision does, on a CPU that may not have it."""
    data = read_graph(bundle, entry)
    if as_float or entry.precision in TYPES:
        model = rounded(onnx.load_from_string(data))
        data = (float_pictures(model) if as_float else model).SerializeToString()
    return OrtSession(data, entry.file, spinning=False)
