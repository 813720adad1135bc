"""What a variant is worth, to keep the best of many: likeness to its instance, or any ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import files, images
from icgan_runtime.chain import Chain
from icgan_runtime.errors import BackendError, BundleError, MissingExtraError, RequestError

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

NONE, SIMILARITY = "none", "similarity"
_MAX_BYTES = 2 << 30

# images [N, R, R, 3], embeddings of their instances [N, D] -> scores [N], higher is better
Scorer = Callable[[U8, F32], F32]


def open_scorer(wanted: str, chain: Chain, threads: int = 0) -> tuple[str, Scorer | None]:
    """The scorer that --scorer names, and its name in a recipe. Raises RequestError."""
    if wanted == NONE:
        return NONE, None
    if wanted == SIMILARITY:
        return SIMILARITY, lambda generated, instances: similarity(chain, generated, instances)
    if not wanted.endswith(".onnx"):
        raise RequestError("scorer", f"{wanted!r}, expected {NONE}, {SIMILARITY} or an .onnx file")
    return _of_graph(Path(wanted), threads)


def similarity(chain: Chain, generated: U8, instances: F32) -> F32:
    """Inner product of each image's embedding with its instance's: 1 is the instance itself."""
    found = chain.embed(list(generated))
    products = found.astype(np.float64) * instances.astype(np.float64)
    scores: F32 = products.sum(axis=1).astype(np.float32)
    return scores


def _of_graph(path: Path, threads: int) -> tuple[str, Scorer]:
    """A graph with `image` uint8 [N, H, W, 3], perhaps `embedding` float32 [N, D], and one output [N]."""
    try:
        from icgan_runtime.backends.ort import OrtSession
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu") from None
    try:
        model = files.read_bounded(path, _MAX_BYTES, str(path))
        session = OrtSession(model, str(path), threads=threads)
    except BundleError as error:
        raise RequestError("scorer", str(error)) from None
    inputs = {spec.name: spec for spec in session.inputs}
    image = inputs.get("image")
    takes = "an input `image` uint8 [N, H, W, 3], perhaps `embedding` float32 [N, D], and one output"
    if image is None or inputs.keys() - {"image", "embedding"} or len(session.outputs) != 1:
        raise RequestError("scorer", f"{path}: expected {takes}")
    if image.dtype != "uint8" or len(image.shape) != 4:
        raise RequestError("scorer", f"{path}: `image` is {image.dtype}{list(image.shape)}, expected {takes}")
    side, output = image.shape[1], session.outputs[0].name

    def score(generated: U8, instances: F32) -> F32:
        if isinstance(side, int) and side != generated.shape[1]:
            generated = np.stack([images.load(one, side) for one in generated])
        feeds: dict[str, NDArray[Any]] = {"image": generated, "embedding": instances}
        try:
            found = session.run({name: feeds[name] for name in inputs})[output]
        except BackendError as error:
            raise RequestError("scorer", str(error)) from None
        if found.size != len(generated):
            raise RequestError("scorer", f"{path}: gave {list(found.shape)} for {len(generated)} images")
        return found.reshape(len(generated)).astype(np.float32)

    return f"sha256:{files.sha256(model)}", score
