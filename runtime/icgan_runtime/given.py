"""What callers give to a pipeline: pictures, embeddings, and the process that they call from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icgan_runtime.errors import BackendError, RequestError
from icgan_runtime.images import Picture
from icgan_runtime.request import embedding_rows

F32 = NDArray[np.float32]


def refuse_forked(process: int) -> None:
    """BackendError in another process than the one that opened a pipeline."""
    if os.getpid() != process:
        raise BackendError(
            f"this pipeline was opened in process {process} and is used in {os.getpid()}, forked from it: "
            "open one in each worker process (docs/serving.md)"
        )


def check_picture(picture: object) -> Picture:
    """`picture` if it is of an accepted type, else RequestError."""
    if isinstance(picture, (str, Path, bytes, Image.Image, np.ndarray)):
        return picture
    what = type(picture).__name__
    raise RequestError(
        "picture",
        f"{'an' if what[0] in 'aeiou' else 'a'} {what}, expected a path, bytes, PIL image or uint8 array",
    )


def is_pictures(query: object) -> TypeGuard[Picture | Sequence[Picture]]:
    """Whether a query is a picture or several rather than embeddings."""
    first = query[0] if isinstance(query, (list, tuple)) and query else query
    if isinstance(first, np.ndarray):
        return bool(first.dtype == np.uint8)
    return isinstance(first, (str, Path, bytes, Image.Image))


def picture_list(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """One picture or several as a list, each of an accepted type."""
    several = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
    if not several:
        raise RequestError("pictures", "none given")
    return [check_picture(picture) for picture in several]


def one_row(embedding: F32, width: int) -> F32:
    """One embedding as [1, D]."""
    rows = embedding_rows(embedding, width)
    if len(rows) != 1:
        raise RequestError("embedding", f"{len(rows)} rows, expected one")
    return rows
