"""Features of many pictures: extracted in batches, those of real pictures kept beside their data set.

Extraction is the slow part of an evaluation, so the features of a data set are stored in pieces of a
thousand pictures, in one fixed random order: a killed run continues, and a later run with more pictures
extracts only the rest. Any prefix of the order is a fair sample.
"""

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icgan_runtime.files import atomic_file
from icgan_training.data.dataset import PreparedDataset, chunks
from icgan_training.errors import DataError
from icgan_training.networks.arithmetic import full_float32
from icgan_training.progress import Progress

PIECE = 1000
BATCH = {"cpu": 16, "cuda": 256}


@dataclass(frozen=True)
class FeatureNetwork:
    """A network from uint8 pictures [N, S, S, 3] to float32 features [N, D], and what it is called."""

    name: str
    sha256: str
    run: Callable[[Tensor], Tensor]
    device: torch.device
    arithmetic: str = "float32"  # features of different arithmetic do not compare: the name differs, too

    @torch.inference_mode()
    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        with full_float32():
            parts = [
                self.run(torch.from_numpy(np.ascontiguousarray(pictures[rows])).to(self.device)).float().cpu()
                for rows in chunks(len(pictures), BATCH[self.device.type])
            ]
        return torch.cat(parts).numpy()


def in_bfloat16(network: FeatureNetwork) -> FeatureNetwork:
    """The network in bfloat16, about twice as fast on a CPU that multiplies it; under a name of its own."""

    def run(pictures: Tensor) -> Tensor:
        with torch.autocast(network.device.type, torch.bfloat16):
            return network.run(pictures)

    return replace(network, name=f"{network.name}-bfloat16", run=run, arithmetic="bfloat16")


def picture_order(count: int) -> NDArray[np.int64]:
    """The order in which pictures of a data set serve as reference."""
    return np.random.default_rng(0).permutation(count)


def real_features(data: PreparedDataset, network: FeatureNetwork, count: int) -> NDArray[np.float32]:
    """Features [count, D] of the first pictures in `picture_order`, from the store where it has them."""
    if count > data.meta.count:
        raise DataError(f"{data.path} has {data.meta.count} pictures, {count} were asked for as reference")
    store = data.path / "features" / f"{network.name}-{network.sha256[:12]}"
    keep = _made(store)
    order = picture_order(data.meta.count)
    found = np.empty((0, 0), np.float32)
    with Progress(count, f"{network.name} features of {data.meta.name}", "pictures") as progress:
        for start in range(0, count, PIECE):
            file = store / f"{start // PIECE:06d}.npy"
            wanted = min(PIECE, count - start)
            piece = _stored(file)
            if piece is None or len(piece) < wanted:
                rows = order[start : min(start + PIECE, count)]
                piece = network(data.images[rows])
                if keep:
                    with atomic_file(file) as partial:
                        np.save(partial, piece)
            if not len(found):  # filled as it grows: joining the pieces would hold all of them twice
                found = np.empty((count, piece.shape[1]), np.float32)
            found[start : start + wanted] = piece[:wanted]
            progress.advance(wanted)
    return found


def _made(store: Path) -> bool:
    """Make the folder of a store; whether that is allowed. A data set may lie where nobody writes."""
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        print(f"note: features are extracted anew each time, {error}", file=sys.stderr)
        return False
    return os.access(store, os.W_OK)


def _stored(file: Path) -> NDArray[np.float32] | None:
    """A piece of the store; None where there is none, or only what a crash of the machine left of it."""
    try:
        piece: NDArray[np.float32] = np.load(file, allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return piece if piece.ndim == 2 else None
