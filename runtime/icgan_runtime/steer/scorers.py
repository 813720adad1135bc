"""What pictures are steered by: a function, an ONNX file, or words with a pair of encoders like CLIP's.

A scorer is any function of images uint8 [N, H, W, 3] that gives one number for each, higher for better.
`onnx_scorer` and `text_scorer` make one of files, and `as_features` what compares two pictures; pictures
reach them as the graph's input says:

    uint8 [N, H, W, 3]     the pixels
    float32 [N, 3, H, W]   (pixel / 255 − mean) / std, channel by channel; `mean` and `std` of the graph's
                           metadata ("0.48, 0.46, 0.41"), else those that each function names

H and W that the graph names are the size that pictures are brought to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icgan_runtime import files, images
from icgan_runtime.bundle.manifest import TensorSpec
from icgan_runtime.errors import BackendError, BundleError, MissingExtraError, RequestError

if TYPE_CHECKING:
    from icgan_runtime.backends.ort import OrtSession

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

Scorer: TypeAlias = Callable[[U8], ArrayLike]
Features: TypeAlias = Callable[[U8], ArrayLike]  # images uint8 [N, H, W, 3] -> numbers [N, F]

MAX_BYTES = 2 << 30  # of an ONNX file
BATCH = 16  # pictures of one run
HALF = ((0.5,) * 3, (0.5,) * 3)  # mean and std that make [-1, 1] of a byte
# What CLIP's published encoders take.
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def scored(scorer: Scorer, pictures: U8) -> F64:
    """One number [N] for each picture. Raises RequestError for a scorer that gives anything else."""
    given = np.asarray(scorer(pictures))
    try:
        numbers = given.astype(np.float64)
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if numbers.shape not in ((len(pictures),), (len(pictures), 1)):
        shape = f"{given.dtype}{list(given.shape)}"
        raise RequestError("scorer", f"gave {shape} for {len(pictures)} images, expected a number for each")
    if not np.isfinite(numbers).all():
        row = int((~np.isfinite(numbers)).argmax())
        raise RequestError("scorer", f"gave {numbers.ravel()[row]} for image {row}, expected a finite number")
    return numbers.reshape(-1)


def as_scorer(scorer: Scorer | str | Path) -> Scorer:
    """A function as it is, the path of an ONNX file as what it computes. Raises RequestError otherwise."""
    if isinstance(scorer, (str, Path)):
        return onnx_scorer(scorer)
    _check_function("scorer", scorer)
    return scorer


def onnx_scorer(path: str | Path, threads: int = 0) -> Scorer:
    """An ONNX file with one image input (see above; floats in [-1, 1]) and one float32 output [N] or [N, 1].

    Raises RequestError where the graph has another form, MissingExtraError without onnxruntime.
    """
    graph = ImageGraph.open(path, HALF, threads)
    shape = graph.output.shape
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        found = _described(graph.output)
        raise RequestError("scorer", f"{path}: gives {found}, expected a score for each image, float32[N]")
    return lambda pictures: graph.run(pictures).reshape(-1)


def as_features(features: Features | str | Path, threads: int = 0) -> Features:
    """A function as it is, the path of an ONNX file as what it computes: float32 [N, F] of one image input.

    Raises RequestError otherwise, MissingExtraError without onnxruntime.
    """
    if not isinstance(features, (str, Path)):
        _check_function("features", features)
        return features
    graph = ImageGraph.open(features, HALF, threads, "features", "features")
    if len(graph.output.shape) != 2:
        found = _described(graph.output)
        raise RequestError("features", f"{features}: gives {found}, expected float32[N, F]")
    return graph.run


def text_scorer(
    text: str, images: str | Path, texts: str | Path, tokenizer: str | Path, threads: int = 0
) -> Scorer:
    """How well pictures fit words: the cosine of what two encoders make of them, as with CLIP.

    `images` is an ONNX file with an image input (see above; floats normalised as CLIP's are), `texts` one
    with `input_ids` int64 [N, L] and perhaps `attention_mask`; both give float32 [N, E], in an output that is
    the only one or is called image_embeds or text_embeds. `tokenizer` is a tokenizer.json of the library
    `tokenizers`, which `icgan[text]` installs. Raises RequestError where they do not fit together.
    """
    graph = ImageGraph.open(images, CLIP, threads, "image_embeds")
    wanted = _text_embedding(text, texts, tokenizer, threads)
    width = graph.output.shape[-1]
    if len(graph.output.shape) != 2 or width != len(wanted):
        found = _described(graph.output)
        raise RequestError(
            "images", f"{images}: gives {found}, expected float32[N, {len(wanted)}] as {texts}"
        )

    def score(pictures: U8) -> F32:
        seen = graph.run(pictures)
        cosines: F32 = seen @ wanted / np.maximum(np.linalg.norm(seen, axis=1), 1e-12)
        return cosines

    return score


@dataclass(frozen=True)
class ImageGraph:
    """An ONNX graph with one image input."""

    session: OrtSession
    input: TensorSpec
    output: TensorSpec
    mean: F32  # [3]
    std: F32  # [3]
    field: str  # what errors call it

    @classmethod
    def open(
        cls,
        path: str | Path,
        normal: tuple[tuple[float, ...], tuple[float, ...]],
        threads: int,
        output: str | None = None,
        field: str = "scorer",
    ) -> ImageGraph:
        """Read a graph, and check that an image is all it takes. Raises RequestError of `field`."""
        session = _open(path, threads, field)
        inputs = session.inputs
        last = [spec.shape[-1] for spec in inputs]
        fits = len(inputs) == 1 and len(inputs[0].shape) == 4
        as_pixels = fits and inputs[0].dtype == "uint8" and last[0] == 3
        as_floats = fits and inputs[0].dtype == "float32" and inputs[0].shape[1] == 3
        if not as_pixels and not as_floats:
            found = " and ".join(map(_described, inputs))
            raise RequestError(
                field, f"{path}: takes {found}, expected one of uint8[N, H, W, 3] and float32[N, 3, H, W]"
            )
        if isinstance(inputs[0].shape[0], int) and inputs[0].shape[0] != 1:
            raise RequestError(
                field, f"{path}: takes {_described(inputs[0])}, expected any number of images, or one"
            )
        mean, std = (
            _numbers(path, session.metadata, name, default, field)
            for name, default in zip(("mean", "std"), normal, strict=True)
        )
        return cls(session, inputs[0], _output(path, session, output, field), mean, std, field)

    def run(self, pictures: U8) -> F32:
        """The output for pictures [N, H, W, 3], row by row."""
        batch = self.input.shape[0] if isinstance(self.input.shape[0], int) else BATCH
        rows = [self._run(pictures[start : start + batch]) for start in range(0, len(pictures), batch)]
        return np.concatenate(rows)

    def _run(self, pictures: U8) -> F32:
        floats = self.input.dtype == "float32"
        height, width = self.input.shape[2:] if floats else self.input.shape[1:3]
        if isinstance(height, int) and isinstance(width, int):
            pictures = np.stack([images.resize_sides(each, height, width) for each in pictures])
        feed: NDArray[Any] = pictures
        if floats:
            normal = (pictures.astype(np.float32) / 255 - self.mean) / self.std
            feed = np.ascontiguousarray(normal.transpose(0, 3, 1, 2))
        try:
            answer: F32 = self.session.run({self.input.name: feed})[self.output.name]
        except BackendError as error:  # of a size that the graph does not name
            raise RequestError(
                self.field, f"does not take images of {pictures.shape[1:3]}: {error}"
            ) from None
        return answer


def _check_function(field: str, given: object) -> None:
    if not callable(given):
        what = type(given).__name__
        raise RequestError(field, f"{what}, expected a function of images, or the path of an ONNX file")


def _open(path: str | Path, threads: int, field: str = "scorer") -> OrtSession:
    try:
        from icgan_runtime.backends.ort import OrtSession
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu") from None
    try:
        data = files.read_bounded(Path(path), MAX_BYTES, str(path))
        return OrtSession(data, Path(path).name, threads=threads)
    except BundleError as error:
        raise RequestError(field, str(error)) from None


def _output(path: str | Path, session: OrtSession, name: str | None, field: str = "scorer") -> TensorSpec:
    """The output that is meant: the only one, or the one of that name."""
    named = [spec for spec in session.outputs if spec.name == name]
    found = named or list(session.outputs)
    if len(found) != 1 or found[0].dtype != "float32":
        given = " and ".join(map(_described, session.outputs))
        also = f", or one called {name}" if name else ""
        raise RequestError(field, f"{path}: gives {given}, expected one output of float32{also}")
    return found[0]


def _text_embedding(text: str, path: str | Path, tokenizer: str | Path, threads: int) -> F32:
    """The unit vector [E] of a text."""
    try:
        from icgan_runtime.steer.words import token_ids
    except ImportError:
        raise MissingExtraError("tokenizers", "text") from None
    session = _open(path, threads)
    specs = {spec.name: spec for spec in session.inputs}
    ids = specs.get("input_ids")
    known = set(specs) <= {"input_ids", "attention_mask"}
    fits = all(spec.dtype == "int64" and len(spec.shape) == 2 for spec in specs.values())
    if ids is None or not known or not fits:
        found = " and ".join(map(_described, session.inputs))
        raise RequestError(
            "texts", f"{path}: takes {found}, expected input_ids int64[N, L] and perhaps attention_mask"
        )
    length = ids.shape[1] if isinstance(ids.shape[1], int) else None
    numbers, mask = token_ids(text, tokenizer, length)
    feeds = {"input_ids": numbers, "attention_mask": mask}
    output = _output(path, session, "text_embeds")
    vector: F32 = session.run({name: feeds[name] for name in specs})[output.name]
    if vector.ndim != 2 or not np.linalg.norm(vector) > 0:
        raise RequestError("texts", f"{path}: gives {_described(output)}, expected float32[N, E]")
    unit: F32 = vector[0] / np.linalg.norm(vector[0])
    return unit


def _numbers(
    path: str | Path, metadata: dict[str, str], name: str, default: tuple[float, ...], field: str
) -> F32:
    """Three numbers of a graph's metadata."""
    if name not in metadata:
        return np.array(default, np.float32)
    try:
        found = np.array([float(part) for part in metadata[name].split(",")], np.float32)
    except ValueError:
        found = np.array([], np.float32)
    if found.shape != (3,) or not np.isfinite(found).all() or (name == "std" and not (found > 0).all()):
        raise RequestError(field, f"{path}: its {name} is {metadata[name]!r}, expected three numbers")
    return found


def _described(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype}{list(spec.shape)}".replace("'", "")
