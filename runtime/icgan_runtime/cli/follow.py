"""What `icgan generate` follows: pictures, embeddings in a file, stored instances."""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import files, images
from icgan_runtime.bundle import arrays
from icgan_runtime.errors import BundleError, RequestError
from icgan_runtime.images import U8, Picture
from icgan_runtime.pipeline import Pipeline
from icgan_runtime.request import Result, embedding_rows

F32 = NDArray[np.float32]

EMBEDDINGS = ".npy"
_GREY = 232  # of the square that stands for a picture that is not there


@dataclass(frozen=True)
class Followed:
    """One thing to follow: a picture's path, or a row of a file of embeddings, or a stored instance's id."""

    name: str  # as the command line has it, and JSON
    folder: str  # for its images, where there are several to follow
    row: int | None = None
    instance: int | None = None


def add_instance(command: argparse.ArgumentParser) -> None:
    """The option --instance."""
    command.add_argument(
        "--instance",
        type=int,
        action="append",
        default=[],
        metavar="ID",
        help="follow this stored instance, by an id that `icgan search` prints; repeatable, not with --url",
    )


def followed(options: argparse.Namespace, pictures: list[str]) -> list[Followed]:
    """Everything that the command line asks for, in its order. Raises RequestError for a damaged file."""
    found: list[Followed] = []
    for picture in pictures:
        stem = Path(picture).stem
        if picture.endswith(EMBEDDINGS):
            count = len(_rows(picture))
            found += [Followed(f"{picture} row {row}", f"{stem}-{row:05}", row) for row in range(count)]
        else:
            found.append(Followed(picture, stem))
    found += [Followed(f"instance {i}", f"instance-{i}", instance=i) for i in options.instance]
    return found


def query(pipe: Pipeline, each: Followed) -> Picture | F32:
    """What is followed: a picture's path, or an embedding [D]."""
    if each.instance is not None:
        embedding: F32 = np.array(pipe.bank.embeddings[_bank_row(pipe, each.instance)])
        return embedding
    if each.row is not None:
        return _embedding(pipe, each)
    return each.name


def generate(pipe: Pipeline, each: Followed, settings: dict[str, Any]) -> tuple[U8, Result]:
    """What stands on the left of the sheet [R, R, 3], and the images."""
    side = pipe.model.resolution
    if each.instance is not None:
        return _of_instance(pipe, each.instance, settings)
    if each.row is not None:
        return _blank(side), pipe.generate_from(_embedding(pipe, each), **settings)
    shown = images.load(each.name, side, pipe.model.preprocessing.crop)  # refused here, a picture is named
    return shown, pipe.generate(each.name, **settings)


def _embedding(pipe: Pipeline, each: Followed) -> F32:
    rows = embedding_rows(_rows(each.name.removesuffix(f" row {each.row}")), pipe.model.embedding_dim)
    row: F32 = rows[each.row]
    return row


def _bank_row(pipe: Pipeline, number: int) -> int:
    """Where an instance is stored. RequestError for one that is not, and over a server."""
    if pipe.chain.bank is None:
        raise RequestError("instance", "the instances stay on the server: name the bundle instead of --url")
    bank = pipe.bank
    row = int(bank.rows(np.array([number]))[0])
    if row == len(bank) or bank.ids[row] != number:
        raise RequestError(
            "instance",
            f"{number} is not stored; `icgan search` prints ids, which lie in {bank.ids[0]}..{bank.ids[-1]}",
        )
    return row


def _of_instance(pipe: Pipeline, number: int, settings: dict[str, Any]) -> tuple[U8, Result]:
    side, row = pipe.model.resolution, _bank_row(pipe, number)
    bank = pipe.bank
    shown = _blank(side) if bank.thumbnails is None else images.resize_sides(bank.thumbnails[row], side, side)
    return shown, pipe.generate_from(np.array(bank.embeddings[row]), **settings)


def _blank(side: int) -> U8:
    return np.full((side, side, 3), _GREY, np.uint8)


@functools.lru_cache(maxsize=8)
def _rows(path: str) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        data = files.read_bounded(Path(path), arrays.MAX_NPZ_BYTES, path)
        found = arrays.read_npy(data, path)
    except BundleError as error:
        raise RequestError("embeddings", f"{error}; expected what `icgan embed --out` writes") from None
    if found.dtype != np.float32 or found.ndim not in (1, 2) or not found.size:
        raise RequestError(
            "embeddings",
            f"{path} holds {found.dtype}{list(found.shape)}, expected float32[N, D] of `icgan embed`",
        )
    return found.reshape(-1, found.shape[-1])
