"""The shards of a data set under way: each is decoded, embedded and marked as finished, on its own.

The arrays of the partial folder are made at full size and filled shard by shard; a small file per finished
shard says so, and names its unreadable pictures. Memory holds two shards of pictures whatever the size of the
set.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from icgan_runtime.cpus import usable_cpus
from icgan_runtime.files import atomic_file
from icgan_runtime.identity import CENTRE
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
    crop: str = CENTRE


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


@dataclass(frozen=True, eq=False)
class Filled:
    """A shard that is decoded and embedded; M of its pictures could be read."""

    places: NDArray[np.int64]  # [M], in the shard, ascending
    images: NDArray[np.uint8]  # [M, R, R, 3]
    plain: NDArray[np.float32]  # [M, D]
    flipped: NDArray[np.float32]  # [M, D]
    reasons: dict[int, str]  # of the places that could not be read


def fill_shards(
    source: Source, network: Encoder, settings: PrepareSettings, partial: Path, processes: Processes
) -> None:
    """Decode and embed this process's unfinished shards; decoding runs one shard ahead, in threads."""
    device = local_device()
    fold_batch_norm(network).to(device)
    with ShardWriter.open(settings, partial, processes) as writer, ThreadPoolExecutor(usable_cpus()) as pool:
        for number, rows, decoded in decode_ahead(source, writer.todo, settings.resolution, pool):
            names = [source.name(row) for row in range(rows.start, rows.stop)]
            writer.store(number, make_shard(network, device, decoded, names, writer.progress.advance))


class ShardWriter:
    """The arrays of a partial folder, and the shards that they lack."""

    def __init__(
        self, settings: PrepareSettings, partial: Path, processes: Processes, stack: ExitStack
    ) -> None:
        shards = list(enumerate(chunks(settings.count, SHARD_PICTURES)))[processes.rank :: processes.world]
        self.todo = [
            (number, rows) for number, rows in shards if not is_done(partial, number, rows, settings)
        ]
        total = sum(rows.stop - rows.start for _, rows in shards)
        done = total - sum(rows.stop - rows.start for _, rows in self.todo)
        if done:
            print(f"continuing {partial}: {done} of {total} pictures are done", file=sys.stderr)
        self._partial, self._start = partial, {number: rows.start for number, rows in self.todo}
        self._files = {
            name: stack.enter_context(Rows(partial / f"{name}.npy")) for name in array_shapes(settings)
        }
        self.progress = stack.enter_context(Progress(total, "prepare", "pictures", done))

    @classmethod
    @contextmanager
    def open(cls, settings: PrepareSettings, partial: Path, processes: Processes) -> "Iterator[ShardWriter]":
        """For the shards of one process."""
        with ExitStack() as stack:
            yield cls(settings, partial, processes, stack)

    def store(self, number: int, shard: Filled) -> None:
        """Write a shard's rows, then its marker; `fill_holes` mends unreadable rows at the end."""
        first = self._start[number]
        if len(shard.places):
            self._files["images"].write(first + shard.places, shard.images)
            self._files["embeddings"].write(first + shard.places, shard.plain)
            self._files["embeddings_flipped"].write(first + shard.places, shard.flipped)
        unreadable = [first + place for place in shard.reasons]
        marker = {"unreadable": unreadable, "reasons": list(shard.reasons.values())}
        write_atomically(shard_marker(self._partial, number), json.dumps(marker))


def make_shard(
    network: Encoder,
    device: torch.device,
    decoded: Sequence[NDArray[np.uint8] | DataError],
    names: Sequence[str],
    advance: Callable[[int], object],
) -> Filled:
    """Embed the pictures of a shard that could be decoded; `advance` hears of each as it is done."""
    good = [place for place, picture in enumerate(decoded) if not isinstance(picture, DataError)]
    reasons = {place: str(error) for place, error in enumerate(decoded) if isinstance(error, DataError)}
    advance(len(reasons))
    if not good:
        none = np.empty((0, 0), np.float32)
        return Filled(np.array([], np.int64), np.empty((0, 0, 0, 3), np.uint8), none, none, reasons)
    images = np.stack([picture for picture in decoded if not isinstance(picture, DataError)])
    plain, flipped = embed(network, images, device, advance)
    check_embeddings(plain, flipped, [names[place] for place in good])
    return Filled(np.array(good, np.int64), images, plain, flipped, reasons)


def decode_ahead(
    source: Source, shards: list[tuple[int, slice]], resolution: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, slice, list[NDArray[np.uint8] | DataError]]]:
    """Each shard with its decoded pictures, or the error in place of a picture that cannot be decoded."""
    ahead = _submit(source, shards[0][1], resolution, pool) if shards else []
    for position, (number, rows) in enumerate(shards):
        current = ahead
        last = position + 1 == len(shards)
        ahead = [] if last else _submit(source, shards[position + 1][1], resolution, pool)
        yield number, rows, [future.result() for future in current]


def _submit(
    source: Source, rows: slice, resolution: int, pool: ThreadPoolExecutor
) -> list[Future[NDArray[np.uint8] | DataError]]:
    def decode(row: int) -> NDArray[np.uint8] | DataError:
        try:
            return source.read(row, resolution)
        except DataError as error:
            return error

    return [pool.submit(decode, row) for row in range(rows.start, rows.stop)]


def embed(
    network: Encoder, images: NDArray[np.uint8], device: torch.device, advance: Callable[[int], object]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings of the pictures and of their mirror images, [n, D] each.

    On a CPU each batch is one thread's, and several are under way: sums that threads share are rounded
    otherwise on another number of processors, and the files of a set would differ.
    """

    @torch.inference_mode()
    def batch(rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pictures = torch.from_numpy(images[rows]).to(device)
        return network(pictures).cpu().numpy(), network(pictures.flip(2)).cpu().numpy()

    plain, flipped = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # before the pool's threads begin: each takes this over
    try:
        with full_float32(), ThreadPoolExecutor(threads if device.type == "cpu" else 1) as pool:
            for one, other in pool.map(batch, chunks(len(images), ENCODER_BATCH[device.type])):
                plain.append(one)
                flipped.append(other)
                advance(len(one))
    finally:
        torch.set_num_threads(threads)
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
