"""The shards of a data set under way: each is decoded, embedded and marked as finished, on its own.

The arrays of the partial folder are made at full size and filled shard by shard; a small file per finished
shard says so, and names its unreadable pictures. Memory holds two shards of pictures whatever the size of the
set.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from icgan_runtime.cpus import usable_cpus
from icgan_runtime.files import atomic_file
from icgan_training.data.dataset import UNIT_TOLERANCE, chunks
from icgan_training.data.npy_rows import Rows
from icgan_training.data.sources import Source
from icgan_training.distributed import Processes, local_device
from icgan_training.errors import DataError
from icgan_training.networks.arithmetic import full_float32
from icgan_training.networks.encoder import Encoder, fold_batch_norm
from icgan_training.progress import Progress

SHARD_PICTURES = 512
ENCODER_BATCH = {"cpu": 8, "cuda": 256}  # a small batch keeps activations in a CPU's caches


@dataclass(frozen=True)
class PrepareSettings:
    """What a prepared data set depends on. A partial folder is only continued with the same settings."""

    source: str
    listing_sha256: str  # of the names and labels, in order
    count: int  # pictures in the source, unreadable ones included
    resolution: int
    encoder_sha256: str
    embedding_dim: int


def array_shapes(settings: PrepareSettings) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of the arrays that shards fill."""
    n, r, d = settings.count, settings.resolution, settings.embedding_dim
    return {
        "images": ("uint8", (n, r, r, 3)),
        "embeddings": ("float32", (n, d)),
        "embeddings_flipped": ("float32", (n, d)),
    }


def shard_marker(partial: Path, shard: int) -> Path:
    """The file that says a shard is finished, and which of its pictures are unreadable."""
    return partial / "shards" / f"{shard:06d}.json"


def read_markers(partial: Path, settings: PrepareSettings) -> list[dict[str, list[Any]]]:
    """What the markers of all shards say, in order: rows that are `unreadable`, and the `reasons`."""
    shards = range(-(-settings.count // SHARD_PICTURES))
    return [json.loads(shard_marker(partial, shard).read_text()) for shard in shards]


def is_done(partial: Path, shard: int, rows: slice, settings: PrepareSettings) -> bool:
    """Whether a shard need not be read again. One without a single readable picture is: a list with wrong
    paths or a disk that was not there are mended, and the same command goes on."""
    marker = shard_marker(partial, shard)
    if not marker.exists():
        return False
    unreadable = json.loads(marker.read_text())["unreadable"]
    return len(unreadable) < rows.stop - rows.start or is_cut(partial, settings)


def is_cut(partial: Path, settings: PrepareSettings) -> bool:
    """Whether `fill_holes` has begun to cut the arrays, which then have no place for unreadable pictures."""
    return len(np.load(partial / "images.npy", mmap_mode="r", allow_pickle=False)) < settings.count


def fill_shards(
    source: Source, network: Encoder, settings: PrepareSettings, partial: Path, processes: Processes
) -> None:
    """Decode and embed this process's unfinished shards; decoding runs one shard ahead, in threads."""
    shards = list(enumerate(chunks(len(source), SHARD_PICTURES)))[processes.rank :: processes.world]
    todo = [(number, rows) for number, rows in shards if not is_done(partial, number, rows, settings)]
    total = sum(rows.stop - rows.start for _, rows in shards)
    done = total - sum(rows.stop - rows.start for _, rows in todo)
    if done:
        print(f"continuing {partial}: {done} of {total} pictures are done", file=sys.stderr)
    device = local_device()
    fold_batch_norm(network).to(device)
    with ExitStack() as stack:
        files = {name: stack.enter_context(Rows(partial / f"{name}.npy")) for name in array_shapes(settings)}
        pool = stack.enter_context(ThreadPoolExecutor(usable_cpus()))
        progress = stack.enter_context(Progress(total, "prepare", "pictures", done))
        for number, rows, decoded in decode_ahead(source, todo, settings.resolution, pool):
            good = [index for index, picture in enumerate(decoded) if not isinstance(picture, DataError)]
            # Unreadable rows stay as they are; `fill_holes` replaces them at the end.
            if good:
                images = np.stack([picture for picture in decoded if not isinstance(picture, DataError)])
                plain, flipped = embed(network, images, device, progress)
                check_embeddings(plain, flipped, [source.name(rows.start + index) for index in good])
                places = rows.start + np.array(good)
                files["images"].write(places, images)
                files["embeddings"].write(places, plain)
                files["embeddings_flipped"].write(places, flipped)
            errors = {
                rows.start + i: error for i, error in enumerate(decoded) if isinstance(error, DataError)
            }
            progress.advance(len(errors))
            marker = {"unreadable": list(errors), "reasons": [str(error) for error in errors.values()]}
            write_atomically(shard_marker(partial, number), json.dumps(marker))


def decode_ahead(
    source: Source, shards: list[tuple[int, slice]], resolution: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, slice, list[NDArray[np.uint8] | DataError]]]:
    """Each shard with its decoded pictures, or the error in place of a picture that cannot be decoded."""

    def decode(row: int) -> NDArray[np.uint8] | DataError:
        try:
            return source.read(row, resolution)
        except DataError as error:
            return error

    def submit(rows: slice) -> list[Future[NDArray[np.uint8] | DataError]]:
        return [pool.submit(decode, row) for row in range(rows.start, rows.stop)]

    ahead = submit(shards[0][1]) if shards else []
    for position, (number, rows) in enumerate(shards):
        current = ahead
        ahead = submit(shards[position + 1][1]) if position + 1 < len(shards) else []
        yield number, rows, [future.result() for future in current]


@torch.inference_mode()
def embed(
    network: Encoder, images: NDArray[np.uint8], device: torch.device, progress: Progress
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings of the pictures and of their mirror images, [n, D] each."""
    plain, flipped = [], []
    with full_float32():  # neighbours are those of a CPU
        for rows in chunks(len(images), ENCODER_BATCH[device.type]):
            batch = torch.from_numpy(images[rows]).to(device)
            plain.append(network(batch).cpu().numpy())
            flipped.append(network(batch.flip(2)).cpu().numpy())
            progress.advance(len(batch))
    return np.concatenate(plain), np.concatenate(flipped)


def check_embeddings(plain: NDArray[np.float32], flipped: NDArray[np.float32], names: list[str]) -> None:
    """Raise `DataError` with the name of the first picture whose embedding, of [n, D], is no unit row."""
    for embeddings in (plain, flipped):
        bad = np.flatnonzero(~(np.abs(np.linalg.norm(embeddings, axis=1) - 1) <= UNIT_TOLERANCE))
        if len(bad):
            raise DataError(
                f"{names[bad[0]]}: the encoder gave no unit embedding (NaN or zero): its file is broken, or"
                " its input size too small"
            )


def write_atomically(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
