"""Is this bundle what it says? Every hash and binding, then its own pinned samples through every graph.

Needs nothing but the runtime: `samples.npz` holds what FP32 torch computed when the bundle was made. The
exporter's own `icgan-export verify` goes further (stage by stage against torch, with FID).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.backends.base import run_in_batches
from icgan_runtime.backends.select import open_session
from icgan_runtime.bundle import arrays, manifest
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import GraphEntry, Manifest
from icgan_runtime.bundle.onnx_file import describe_onnx
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.prior_files import has_prior, read_prior
from icgan_runtime.errors import BundleError, IcganError
from icgan_runtime.search.numpy import numpy_search

Samples = dict[str, arrays.Array]

MAX_SAMPLE_ROWS = 256
MIN_COSINE = {"fp32": 0.999999, "fp16": 0.9995, "bf16": 0.99, "int8": 0.99}
MIN_PSNR = {"fp16": 40.0, "bf16": 40.0, "int8": 25.0}  # dB; FP32 must be within one grey level instead
SCORE_TOLERANCE = 1e-4

_QUERIES = ("picture", "embedding", "ids", "scores")  # one row per picture
_IMAGES = (
    "image",
    "noise",
    "label",
    "truncation",
)  # one row per generated image, conditioned on the first pictures
# Where a graph's input has another name among the samples.
_FED = {("encoder", "image"): "picture", ("generator", "embedding"): "conditioning"}


@dataclass(frozen=True)
class Check:
    """One question about a bundle and its answer."""

    name: str
    passed: bool
    detail: str


def verify_bundle(bundle: Bundle, backend: str = "ort-cpu") -> Iterator[Check]:
    """Yield every check as it is done. A check that fails does not stop the others."""
    for name in bundle.manifest.files:
        yield _attempt(name, lambda name: f"{bundle.path(name).stat().st_size} bytes, SHA-256 matches", name)
    yield _attempt("bank", lambda bundle: f"{len(Bank.of_bundle(bundle))} instances of this space", bundle)
    for entry in bundle.manifest.graphs:
        yield _attempt(f"{entry.file} metadata", _metadata, bundle, entry)
    try:
        samples = read_samples(bundle)
    except IcganError as error:
        yield Check(manifest.SAMPLES_NAME, False, str(error))
        return
    for entry in bundle.manifest.graphs:
        work = _rerun if _runs(bundle, entry, backend) else _not_run
        yield _attempt(f"{entry.file} on samples", work, bundle, entry, backend, samples)
    yield _attempt("bank on samples", _bank, bundle, samples)
    if has_prior(bundle.manifest):
        yield _attempt("prior", _prior, bundle)


def check_graphs(bundle: Bundle, backend: str, precision: str, roles: Sequence[str]) -> list[Check]:
    """The graphs of `roles` at `precision`, run by `backend` on the bundle's samples."""
    samples = read_samples(bundle)
    return [
        _attempt(f"{entry.file} on samples", _rerun, bundle, entry, backend, samples)
        for entry in (bundle.manifest.graph(role, precision) for role in roles)
    ]


def read_samples(bundle: Bundle) -> Samples:
    """The arrays of samples.npz (docs/format.md), shapes checked. Raises BundleError.

    Added to them: `conditioning`, the rows of `embedding` that the images were drawn from.
    """
    name = manifest.SAMPLES_NAME
    samples = arrays.read_npz(bundle.read(name), name)
    for key, (dtype, shape) in _sample_specs(bundle.manifest).items():
        if key not in samples:
            raise BundleError(name, f"holds no array {key!r}")
        arrays.require(samples[key], f"{name} {key}", dtype, (None, *shape))
    queries, images = (_common_length(samples, names) for names in (_QUERIES, _IMAGES))
    if not 1 <= images <= queries <= MAX_SAMPLE_ROWS:
        raise BundleError(
            name, f"{images} images of {queries} pictures, expected 1..{MAX_SAMPLE_ROWS} of each"
        )
    samples["conditioning"] = samples["embedding"][:images]
    return samples


def _common_length(samples: Samples, names: tuple[str, ...]) -> int:
    lengths = {name: len(samples[name]) for name in names if name in samples}
    if len(set(lengths.values())) != 1:
        raise BundleError(manifest.SAMPLES_NAME, f"arrays of different lengths: {lengths}")
    return lengths[names[0]]


def to_bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Generator output float32 [N, 3, R, R] in [-1, 1] as uint8 [N, R, R, 3], as docs/format.md says."""
    scaled = np.rint(np.clip((images + 1) * np.float32(127.5), 0, 255)).astype(np.uint8)
    return np.ascontiguousarray(scaled.transpose(0, 2, 3, 1))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over all pictures [N, R, R, 3]; infinity for equal ones."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


class _MissedError(Exception):
    """A measurement misses its bound."""


def _attempt(name: str, work: Callable[..., str], *arguments: object) -> Check:
    try:
        return Check(name, True, work(*arguments))
    except (IcganError, _MissedError) as error:
        return Check(name, False, str(error))


def _metadata(bundle: Bundle, entry: GraphEntry) -> str:
    found = describe_onnx(bundle.read(entry.file), entry.file)
    manifest.check_onnx_metadata(entry.file, found.metadata, bundle.manifest.model, entry.role)
    if found.opsets.get("") != entry.opset:
        raise _MissedError(f"opset {found.opsets.get('')}, the manifest says {entry.opset}")
    return f"opset {entry.opset}, identity {bundle.manifest.model.identity[:12]}"


def _runs(bundle: Bundle, entry: GraphEntry, backend: str) -> bool:
    """TensorRT runs the plans there are; ONNX Runtime has no bfloat16 on a CPU."""
    if backend == "tensorrt":
        plans = {(plan.role, plan.precision) for plan in bundle.manifest.engines}
        return (entry.role, entry.precision) in plans
    return backend != "ort-cpu" or entry.precision != "bf16"


def _not_run(bundle: Bundle, entry: GraphEntry, backend: str, samples: Samples) -> str:
    return f"not run: {backend} has no {entry.precision} of it"


def _rerun(bundle: Bundle, entry: GraphEntry, backend: str, samples: Samples) -> str:
    with open_session(bundle, entry, backend) as session:
        feeds = {spec.name: samples[_FED.get((entry.role, spec.name), spec.name)] for spec in entry.inputs}
        outputs = run_in_batches(session, feeds, session.max_batch or MAX_SAMPLE_ROWS)
    precision = "bf16" if backend == "openvino-bf16" and entry.precision == "fp32" else entry.precision
    if entry.role == "encoder":
        cosine = float((outputs["embedding"] * samples["embedding"]).sum(axis=1).min())
        return _bound("cosine", cosine, MIN_COSINE[precision])
    if entry.role == "lookup":
        return _neighbours(outputs["ids"], outputs["scores"], samples)
    reference = to_bytes(samples["image"])
    if precision != "fp32":
        return _bound("PSNR", psnr(outputs["image"], reference), MIN_PSNR[precision])
    levels = int(np.abs(outputs["image"].astype(np.int16) - reference).max())
    if levels > 1:
        raise _MissedError(f"{levels} grey levels apart, expected at most 1")
    return f"{levels} grey levels apart at most"


def _sample_specs(book: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    model, k = book.model, book.bank.neighbours
    side, inner = model.resolution, model.preprocessing.size
    specs: dict[str, tuple[str, tuple[int, ...]]] = {
        "picture": ("uint8", (inner, inner, 3)),
        "embedding": ("float32", (model.embedding_dim,)),
        "ids": ("int64", (k,)),
        "scores": ("float32", (k,)),
        "noise": ("float32", (model.dim_z,)),
        "image": ("float32", (3, side, side)),
    }
    specs |= {"label": ("int64", ())} if model.classes else {}
    return specs | ({"truncation": ("float32", ())} if model.truncation == "mean-w" else {})


def _bank(bundle: Bundle, samples: Samples) -> str:
    k = samples["ids"].shape[1]
    found = numpy_search(Bank.of_bundle(bundle), "verify")(samples["embedding"], k)
    return _neighbours(*found, samples)


def _prior(bundle: Bundle) -> str:
    prior = read_prior(bundle)
    assert prior is not None
    rows, _ = prior.instances(0, np.arange(64))
    alone, _ = prior.instances(0, 63)
    if not np.abs(alone - rows[63:]).max() <= 1e-6:
        raise _MissedError("an instance depends on the others that it is drawn with")
    return f"{len(prior)} centres of {prior.least} pictures or more, {len(prior.axes)} axes"


def _neighbours(ids: arrays.Array, scores: arrays.Array, samples: Samples) -> str:
    """Scores must agree; ids too, except among scores so close that rounding decides their order."""
    expected = samples["ids"]
    difference = float(np.abs(scores - samples["scores"]).max())
    if not difference <= SCORE_TOLERANCE:
        raise _MissedError(
            f"scores {difference:.2g} apart, expected at most {SCORE_TOLERANCE}: another bank?"
        )
    for row, column in np.argwhere(ids != expected):
        ties = np.abs(scores[row] - scores[row, column]) <= SCORE_TOLERANCE
        # the last may tie with one that was cut off
        if ids[row, column] not in expected[row][ties] and not ties[-1]:
            raise _MissedError(f"row {row}: neighbour {ids[row, column]}, expected {expected[row, column]}")
    return f"ids agree, scores within {difference:.1g}"


def _bound(what: str, value: float, least: float) -> str:
    text = f"{what} {value:.7g}, at least {least:g} wanted"
    if not value >= least:
        raise _MissedError(text)
    return text
