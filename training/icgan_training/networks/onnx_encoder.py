"""From a user's ONNX file to an encoder, compared with the file itself in ONNX Runtime."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from icgan_runtime.console import tell
from icgan_training.errors import WeightsError
from icgan_training.networks.encoder import ONNX, Encoder, EncoderConfig
from icgan_training.networks.onnx_backbone import OnnxBackbone, evaluate, reason, run_original
from icgan_training.networks.onnx_graph import Part, canonical, cut, read_graph
from icgan_training.networks.pixels import TOKENS, OnnxOptions, find_pixels

ROWS = 3  # another number than any file is likely to be fixed at
TOLERANCE = 1e-4  # of unit rows: the bound of a float32 graph (docs/export.md)
NAMELESS = ("model", "vision_model", "encoder", "model_quantized")  # files that are called by their folder


def encoder_from_onnx(path: Path, options: OnnxOptions, input_size: int | None = None) -> Encoder:
    """The encoder that an ONNX file is, with its preprocessing bound to it.

    input_size: the side that pictures are enlarged to; None takes the file's, else its processor's. Raises
    WeightsError naming what does not fit, and where the graph that is kept is not the file's own.
    """
    part = cut(read_graph(path), options.output, path)
    look = find_pixels(path, options)
    side = _side(part, look.side, input_size, path)
    for remark in look.remarks:
        tell(remark)
    x = np.random.default_rng(0).standard_normal((ROWS, 3, side, side), np.float32)
    own = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if part.channels_last else x
    found = run_original(path, part.pixels, part.output, own, part.batch)
    expected = pooled(found, part, options.tokens, path)
    tokens = options.tokens
    content = canonical(part, side, found.ndim, tokens, expected.shape[1], path, evaluate)
    backbone = OnnxBackbone(content)
    _compare(backbone, x, expected, part, path)
    config = EncoderConfig(
        f"{ONNX}{name_of(path)}",
        expected.shape[1],
        side,
        look.mean,
        look.std,
        source=f"{path.name}, {part.output}" + (f", {tokens} of its vectors" if tokens else ""),
        licence="see the origin of the file",
        resize=look.resize,
    )
    return Encoder(config, backbone).eval()


def name_of(path: Path) -> str:
    """What the encoder is called: the file, or its folder where the file is called as all are."""
    path = path.resolve()
    folder = path.parent.parent if path.parent.name == "onnx" else path.parent
    name = folder.name if path.stem in NAMELESS and folder.name else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def _side(part: Part, said: int | None, asked: int | None, path: Path) -> int:
    if part.side is not None:
        if asked not in (None, part.side):
            raise WeightsError(f"--input-size is {asked}, {path} takes pictures of {part.side} px only")
        if asked is None and said not in (None, part.side):
            raise WeightsError(
                f"{path} takes pictures of {part.side} px, its processor makes {said}: it is of another file;"
                f" --input-size {part.side} takes its numbers all the same"
            )
        return part.side
    if asked is None and said is None:
        raise WeightsError(f"{path} takes pictures of any side: say which with --input-size")
    return asked or said or 0


def pooled(found: NDArray[Any], part: Part, tokens: str | None, path: Path) -> NDArray[np.float32]:
    """One vector for each picture, of what the file gives: float32 [N, D]. Raises WeightsError."""
    shape = "[" + ", ".join(map(str, ("N", *found.shape[1:]))) + "]"
    if found.dtype != np.float32 or found.ndim not in (2, 3, 4) or len(found) != ROWS:
        raise WeightsError(
            f"{path} gives {part.output} {shape} of {found.dtype} for {ROWS} pictures, an embedding is [N, D]"
            " of float32: choose another --encoder-output"
        )
    single = found.ndim == 2 or (found.ndim == 4 and found.shape[2:] == (1, 1))
    if single and tokens is not None:
        raise WeightsError(
            f"--encoder-tokens {tokens}: {part.output} is {shape}, one vector already: leave it out"
        )
    if single:
        return found.reshape(ROWS, -1)
    square = found.ndim == 4 and found.shape[2] == found.shape[3]
    if found.ndim == 4 and not square:
        raise WeightsError(f"{path} gives {part.output} {shape}, known: [N, D], [N, T, D], [N, D, H, H]")
    if tokens is None or (tokens == "first" and square):
        choice = "mean" if square else "first (a class token) or --encoder-tokens mean"
        raise WeightsError(
            f"{path} gives {part.output} {shape}, many vectors for a picture: take one with"
            f" --encoder-tokens {choice}"
        )
    assert tokens in TOKENS
    if tokens == "first":
        return np.ascontiguousarray(found[:, 0])
    mean: NDArray[np.float32] = found.mean(axis=(2, 3) if square else 1, dtype=np.float64).astype(np.float32)
    return mean


def _compare(
    backbone: OnnxBackbone, x: NDArray[np.float32], expected: NDArray[np.float32], part: Part, path: Path
) -> None:
    """Raise WeightsError unless the graph that is kept gives the file's own features, as unit rows."""
    try:
        with torch.inference_mode():
            found = backbone(torch.from_numpy(x)).numpy()
    except Exception as error:  # ONNX Runtime's share no base class
        found, why = None, reason(error)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise WeightsError(f"{path} gives NaN, infinity or zeros on random pictures: it is damaged")
    if found is not None:
        error_of = np.abs(found / np.linalg.norm(found, axis=1, keepdims=True) - expected / lengths).max()
        if error_of <= TOLERANCE:
            return
        why = f"features differ by {error_of:.2g}"
    fixed = "its batch is fixed, export it with a free first axis" if part.batch else "export it anew"
    raise WeightsError(
        f"{path} does not give what it gives alone once it is one graph of N rows ({why}): {fixed}"
    )
