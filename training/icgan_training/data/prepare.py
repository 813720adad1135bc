"""A source of pictures -> the prepared data set: decode once, embed once, find neighbourhoods once.

The arrays are made at full size in `OUT.partial` and filled shard by shard; a small file per finished shard
says so, and names its unreadable pictures. A killed run therefore continues where it stopped, whatever the
number of processes, and memory holds two shards of pictures whatever the size of the set. At the end the
holes that unreadable pictures left are filled with rows from the end, neighbourhoods are computed, and the
folder is renamed to `OUT`.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from icgan_runtime.console import tell
from icgan_runtime.cpus import usable_cpus
from icgan_runtime.errors import MissingExtraError
from icgan_runtime.files import atomic_file
from icgan_training.data.dataset import (
    ENCODER,
    UNIT_TOLERANCE,
    DatasetMeta,
    EncoderIdentity,
    chunks,
    describe_files,
    open_array,
)
from icgan_training.data.fetch import find_weights
from icgan_training.data.neighbours import EXACT_UP_TO, check_count, nearest_neighbours, neighbour_statistics
from icgan_training.data.npy_rows import Rows
from icgan_training.data.sources import Source, open_source
from icgan_training.distributed import ALONE, Processes, local_device, wait
from icgan_training.errors import DataError, WeightsError
from icgan_training.integrity import file_sha256
from icgan_training.networks.arithmetic import full_float32
from icgan_training.networks.encoder import (
    EMBEDDING_DIMS,
    Encoder,
    EncoderConfig,
    bind_encoder,
    encoder_from_timm,
    fold_batch_norm,
    load_encoder,
    save_encoder,
)
from icgan_training.networks.timm_encoder import PREFIX as TIMM
from icgan_training.progress import Progress

SHARD_PICTURES = 512
ENCODER_BATCH = {"cpu": 8, "cuda": 256}  # a small batch keeps activations in a CPU's caches
IDENTICAL_RADIUS = 1e-3  # distances below it are rounding


@dataclass(frozen=True)
class PrepareSettings:
    """What a prepared data set depends on. A partial folder is only continued with the same settings."""

    source: str
    listing_sha256: str  # of the names and labels, in order
    count: int  # pictures in the source, unreadable ones included
    resolution: int
    encoder_sha256: str
    embedding_dim: int


def prepare(
    source_path: Path,
    out: Path,
    *,
    resolution: int,
    encoder: str,
    weights: Path | None = None,
    input_size: int | None = None,
    neighbours: int = 50,
    exact_up_to: int = EXACT_UP_TO,
    use_labels: bool = True,
    processes: Processes = ALONE,
) -> None:
    """Write the prepared data set `out` from the pictures of `source_path`.

    encoder: a name `fetch` knows, an encoder file of ours, a torch ResNet-50 state dict, or timm:NAME.
    weights: the file of a timm:NAME.
    input_size: the side pictures are enlarged to before the encoder; None keeps what its file says.
    processes: under torchrun each takes its share of the shards; the first one does the rest.
    Raises `DataError` when the pictures cannot make a data set; a partial folder stays for the next try.
    """
    if out.exists():
        raise DataError(f"--out {out} exists already: remove it or choose another folder")
    if resolution < 8:
        raise DataError(f"--resolution is {resolution}, it must be at least 8")
    if input_size is not None and input_size < 32:
        raise DataError(f"--input-size is {input_size}, it must be at least 32: encoders halve it five times")
    source = open_source(source_path, use_labels=use_labels)
    if processes.first:
        for remark in source.remarks:
            tell(remark)
    check_count(len(source), neighbours)
    partial = out.with_name(out.name + ".partial")
    complete = (partial / "dataset.json").exists()
    wait(processes)
    if complete:  # killed between the last file and the renaming
        if processes.first:
            publish(partial, out)
        return
    if processes.first:
        place_encoder(encoder, weights, input_size, partial)
    wait(processes)
    network = load_encoder(partial / ENCODER)
    settings = PrepareSettings(
        source=str(source_path.resolve()),
        listing_sha256=listing_sha256(source),
        count=len(source),
        resolution=resolution,
        encoder_sha256=file_sha256(partial / ENCODER),
        embedding_dim=network.config.embedding_dim,
    )
    if processes.first:
        begin_or_continue(partial, settings)
    wait(processes)
    fill_shards(source, network, settings, partial, processes)
    wait(processes)
    if processes.first:
        finish(source, network.config, settings, partial, neighbours, exact_up_to)
        publish(partial, out)


# ---- the partial folder ----------------------------------------------------------------------------------


def place_encoder(encoder: str, weights: Path | None, input_size: int | None, partial: Path) -> None:
    """Put the encoder's file into the partial folder, which is made.

    Raises WeightsError, and leaves no new folder then.
    """
    file = None if encoder.startswith(TIMM) else find_encoder(encoder)
    if file is not None and weights is not None:
        raise WeightsError(f"--weights goes with --encoder {TIMM}NAME, not with {encoder}")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        if file is None:
            save_encoder(encoder_from_timm(encoder, weights, input_size), partial / ENCODER)
        else:
            bind_encoder(file, partial / ENCODER, input_size)
    except (WeightsError, MissingExtraError):
        with contextlib.suppress(OSError):  # of an earlier run there is something in it
            partial.rmdir()
        raise


def find_encoder(argument: str) -> Path:
    """The file that `--encoder` means: a path, or an encoder's name. Raises `WeightsError` for neither."""
    if argument not in EMBEDDING_DIMS and not Path(argument).is_file():
        raise WeightsError(
            f"--encoder {argument} is neither a file nor one of {', '.join(EMBEDDING_DIMS)}, {TIMM}NAME"
        )
    return find_weights(argument)


def listing_sha256(source: Source) -> str:
    """Identity of what is listed: names (or the shape of the array) and labels, in order."""
    digest = hashlib.sha256()
    for file in source.files:
        digest.update(file.encode("utf-8", "surrogateescape") + b"\0")
    if source.array is not None:
        digest.update(str(source.array.shape).encode())
    if source.container is not None:
        for part in source.container.identity():
            digest.update(part + b"\0")
    if source.labels is not None:
        digest.update(source.labels.tobytes())
    return digest.hexdigest()


def array_shapes(settings: PrepareSettings) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of the arrays that shards fill."""
    n, r, d = settings.count, settings.resolution, settings.embedding_dim
    return {
        "images": ("uint8", (n, r, r, 3)),
        "embeddings": ("float32", (n, d)),
        "embeddings_flipped": ("float32", (n, d)),
    }


def begin_or_continue(partial: Path, settings: PrepareSettings) -> None:
    """Make the empty arrays, or check that the partial folder was begun with the same settings."""
    file = partial / "settings.json"
    wanted = dataclasses.asdict(settings)
    if file.exists():
        begun = json.loads(file.read_text())
        changed = [
            f"{key} was {begun.get(key)}, is {wanted[key]}" for key in wanted if begun.get(key) != wanted[key]
        ]
        if changed:
            raise DataError(
                f"{partial} was begun with other settings ({'; '.join(changed)}): remove it to start again"
            )
        return
    for name, (dtype, shape) in array_shapes(settings).items():
        np.lib.format.open_memmap(partial / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    (partial / "shards").mkdir(exist_ok=True)
    write_atomically(file, json.dumps(wanted, indent=2))


def shard_marker(partial: Path, shard: int) -> Path:
    """The file that says a shard is finished, and which of its pictures are unreadable."""
    return partial / "shards" / f"{shard:06d}.json"


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


# ---- shards ----------------------------------------------------------------------------------------------


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


# ---- the end ---------------------------------------------------------------------------------------------


def finish(
    source: Source, encoder: EncoderConfig, settings: PrepareSettings, partial: Path, k: int, exact_up_to: int
) -> None:
    """Close the holes, find neighbourhoods, write `dataset.json`; can be repeated after a kill."""
    shards = range(-(-settings.count // SHARD_PICTURES))
    markers = [json.loads(shard_marker(partial, shard).read_text()) for shard in shards]
    unreadable = [row for marker in markers for row in marker["unreadable"]]
    # markers of an older version have no reasons
    reasons = [why for m in markers for why in m.get("reasons", map(source.name, m["unreadable"]))]
    kept = settings.count - len(unreadable)
    if kept == 0:
        raise DataError(f"none of the {settings.count} pictures can be read; {reasons[0]}")
    if unreadable:
        names = "".join(f"{source.name(row)}\n" for row in unreadable)
        (partial / "unreadable.txt").write_text(names, encoding="utf-8", errors="surrogateescape")
        print(f"{len(unreadable)} pictures could not be read and are left out:", file=sys.stderr)
        for reason in reasons:  # a picture may be sound, but too large for Pillow, or of a kind it lacks
            tell(f"  {' '.join(reason.split())}")
    check_count(kept, k)
    order = fill_holes(partial, settings, unreadable)
    labels = None if source.labels is None else source.labels[order]
    if labels is not None:
        np.save(partial / "labels.npy", labels)
    embeddings = open_array(partial / "embeddings.npy", "float32", (kept, settings.embedding_dim))
    neighbourhoods = nearest_neighbours(embeddings, k, exact_up_to)
    if neighbourhoods.radii.max() < IDENTICAL_RADIUS:
        raise DataError(
            f"every picture has {k} or more identical copies: there is nothing to learn "
            "from these neighbourhoods; remove the duplicates"
        )
    np.save(partial / "neighbours.npy", neighbourhoods.indices)
    np.save(partial / "radii.npy", neighbourhoods.radii)
    print(neighbour_statistics(neighbourhoods, labels), file=sys.stderr)
    meta = DatasetMeta(
        name=source.note.name,
        count=kept,
        resolution=settings.resolution,
        embedding_dim=settings.embedding_dim,
        neighbours=k,
        class_names=source.class_names,
        source=source.note.source,
        licence=source.note.licence,
        encoder=EncoderIdentity(
            encoder.architecture, settings.encoder_sha256, encoder.input_size, encoder.embedding_dim
        ),
        unreadable=len(unreadable),
        files=describe_files(partial),
    )
    write_atomically(partial / "dataset.json", meta.to_json())


def publish(partial: Path, out: Path) -> None:
    """Drop what only a continuation needs, and give the complete folder its name."""
    shutil.rmtree(partial / "shards", ignore_errors=True)
    (partial / "settings.json").unlink(missing_ok=True)
    partial.rename(out)


def fill_holes(partial: Path, settings: PrepareSettings, unreadable: list[int]) -> NDArray[np.int64]:
    """Move the last readable rows into the places of unreadable ones and cut the arrays.

    Returns, for every row kept, its number in the source. Every move reads a row that no move overwrites, so
    repeating an interrupted run gives the same result.
    """
    kept = settings.count - len(unreadable)
    holes = [row for row in unreadable if row < kept]
    movers = np.setdiff1d(np.arange(kept, settings.count), unreadable)
    order = np.arange(kept)
    order[holes] = movers
    for name in array_shapes(settings):
        with Rows(partial / f"{name}.npy") as rows:
            if rows.count == kept:  # done before an interruption
                continue
            for hole, mover in zip(holes, movers, strict=True):
                rows.move(int(mover), hole)
            rows.shorten(kept)
    return order
