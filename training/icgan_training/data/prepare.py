"""A source of pictures -> the prepared data set: decode once, embed once, find neighbourhoods once.

The arrays are made at full size in `OUT.partial` and filled shard by shard (`shards.py`): a killed run goes
on where it stopped, whatever the number of processes. At the end the holes that unreadable pictures left are
filled with rows from the end, neighbourhoods are computed, and the folder is renamed to `OUT`.
"""

import contextlib
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.console import tell
from icgan_runtime.errors import MissingExtraError
from icgan_runtime.files import sha256_of_file
from icgan_runtime.identity import CENTRE, EncoderIdentity
from icgan_runtime.names import ENDS, TEXT
from icgan_training.data.advice import likeness, warnings
from icgan_training.data.dataset import (
    ENCODER,
    DatasetMeta,
    PreparedDataset,
    describe_files,
    open_array,
)
from icgan_training.data.fetch import find_weights
from icgan_training.data.join import (
    JOINED,
    Labels,
    check_labels,
    check_same_encoder,
    join_arrays,
    join_labels,
    join_names,
    join_notes,
)
from icgan_training.data.neighbours import EXACT_UP_TO, check_count, neighbour_statistics
from icgan_training.data.npy_rows import Rows
from icgan_training.data.selection import Selection, select
from icgan_training.data.sharded import find_neighbours
from icgan_training.data.shards import (
    PrepareSettings,
    array_shapes,
    fill_shards,
    read_markers,
    write_atomically,
)
from icgan_training.data.sources import Source, listing_sha256, open_source
from icgan_training.distributed import ALONE, Processes, wait
from icgan_training.errors import DataError, WeightsError
from icgan_training.networks.encoder import (
    EMBEDDING_DIMS,
    Encoder,
    EncoderConfig,
    bind_encoder,
    encoder_from_timm,
    load_encoder,
    save_encoder,
)
from icgan_training.networks.pixels import OnnxOptions
from icgan_training.networks.timm_encoder import PREFIX as TIMM

if TYPE_CHECKING:
    from icgan_runtime.cluster import Place

ONNX_SUFFIX = ".onnx"
IDENTICAL_RADIUS = 1e-3  # distances below it are rounding


def prepare(
    source_path: Path | str,
    out: Path,
    *,
    resolution: int,
    encoder: str,
    weights: Path | None = None,
    onnx: OnnxOptions | None = None,
    input_size: int | None = None,
    neighbours: int = 50,
    exact_up_to: int = EXACT_UP_TO,
    use_labels: bool = True,
    crop: str = CENTRE,
    selection: Selection | None = None,
    processes: Processes = ALONE,
    base: PreparedDataset | None = None,
    place: "Place | None" = None,
) -> None:
    """Write the prepared data set `out` from the pictures of a path or URL.

    base: a set whose pictures come first, as they are there; resolution and encoder have to be its own.

    encoder: a name `fetch` knows, an encoder file of ours, a torch ResNet-50 state dict, timm:NAME, or an
    ONNX file. weights: the file of a timm:NAME. onnx: what is to be known of an ONNX file.
    input_size: the side pictures are enlarged to before the encoder; None keeps what its file says.
    crop: one of CROPS. selection: which pictures of the source are taken; None: all.
    place: where on Ray the shards are made; None: here.
    processes: under torchrun each takes its share of the shards; the first one does the rest.
    Raises `DataError` when the pictures cannot make a data set; a partial folder stays for the next try.
    """
    if out.exists():
        raise DataError(f"--out {out} exists already: remove it or choose another folder")
    if resolution < 8:
        raise DataError(f"--resolution is {resolution}, it must be at least 8")
    if input_size is not None and input_size < 32:
        raise DataError(f"--input-size is {input_size}, it must be at least 32: encoders halve it five times")
    source = dataclasses.replace(open_source(source_path, use_labels=use_labels), crop=crop)
    if selection is not None:
        source = select(source, selection)
    if processes.first:
        for remark in source.remarks:
            tell(remark)
    held = 0 if base is None else base.meta.count
    if base is not None:
        check_labels(base, source)
    check_count(held + len(source), neighbours)
    partial = out.with_name(out.name + ".partial")
    finished = partial if base is None else partial / JOINED
    complete = (finished / "dataset.json").exists()
    wait(processes)
    if complete:  # killed between the last file and the renaming
        if processes.first:
            publish(partial, finished, out)
        return
    if processes.first:
        place_encoder(encoder, weights, onnx or OnnxOptions(), input_size, partial)
    wait(processes)
    network = load_encoder(partial / ENCODER)
    settings = PrepareSettings(
        source=source_path if isinstance(source_path, str) else str(source_path.resolve()),
        listing_sha256=listing_sha256(source),
        count=len(source),
        resolution=resolution,
        encoder_sha256=sha256_of_file(partial / ENCODER),
        embedding_dim=network.config.embedding_dim,
        crop=crop,
    )
    if base is not None:
        check_same_encoder(base, settings)
    if processes.first:
        begin_or_continue(partial, settings)
    wait(processes)
    if place is None:
        fill_shards(source, network, settings, partial, processes)
    else:
        from icgan_training.data.on_ray import fill_on_ray

        fill_on_ray(source, settings, partial, place)
    wait(processes)
    if processes.first:
        finish(source, network.config, settings, partial, neighbours, exact_up_to, base, selection)
        publish(partial, finished, out)
        advise(PreparedDataset.open(out))


def place_encoder(
    encoder: str, weights: Path | None, onnx: OnnxOptions, input_size: int | None, partial: Path
) -> None:
    """Put the encoder's file into the partial folder, which is made.

    Raises WeightsError, and leaves no new folder then.
    """
    file = None if encoder.startswith(TIMM) else find_encoder(encoder)
    if file is not None and weights is not None:
        raise WeightsError(f"--weights goes with --encoder {TIMM}NAME, not with {encoder}")
    of_onnx = file is not None and file.suffix.lower() == ONNX_SUFFIX
    if onnx.given and not of_onnx:
        raise WeightsError(f"{onnx.given[0]} goes with --encoder FILE{ONNX_SUFFIX}, not with {encoder}")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        if file is None:
            save_encoder(encoder_from_timm(encoder, weights, input_size), partial / ENCODER)
        elif of_onnx:
            save_encoder(_from_onnx(file, onnx, input_size), partial / ENCODER)
        else:
            bind_encoder(file, partial / ENCODER, input_size)
    except (WeightsError, MissingExtraError):
        with contextlib.suppress(OSError):  # of an earlier run there is something in it
            partial.rmdir()
        raise


def _from_onnx(file: Path, options: OnnxOptions, input_size: int | None) -> Encoder:
    try:
        from icgan_training.networks.onnx_encoder import encoder_from_onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "onnx", "export") from error
    return encoder_from_onnx(file, options, input_size)


def find_encoder(argument: str) -> Path:
    """The file that `--encoder` means: a path, or an encoder's name. Raises `WeightsError` for neither."""
    if argument not in EMBEDDING_DIMS and not Path(argument).is_file():
        raise WeightsError(
            f"--encoder {argument} is neither a file nor one of {', '.join(EMBEDDING_DIMS)}, {TIMM}NAME"
        )
    return find_weights(argument)


def begin_or_continue(partial: Path, settings: PrepareSettings) -> None:
    """Make the empty arrays, or check that the partial folder was begun with the same settings."""
    file = partial / "settings.json"
    wanted = dataclasses.asdict(settings)
    if file.exists():
        begun = {"crop": CENTRE} | json.loads(file.read_text())  # an older version knew no other
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


def finish(
    source: Source,
    encoder: EncoderConfig,
    settings: PrepareSettings,
    partial: Path,
    k: int,
    exact_up_to: int,
    base: PreparedDataset | None = None,
    selection: Selection | None = None,
) -> None:
    """Close the holes, find neighbourhoods, write `dataset.json`; can be repeated after a kill."""
    unreadable = tell_unreadable(source, settings, partial)
    kept = settings.count - len(unreadable)
    # before holes are closed: what cannot be read now may be there when the command is given again
    check_count(kept + (0 if base is None else base.meta.count), k)
    order = fill_holes(partial, settings, unreadable)
    labels = Labels(None if source.labels is None else source.labels[order], source.class_names)
    called = source.names(order)
    folder, note = partial, source.note
    if base is not None:
        folder = join_arrays(base, partial, kept)
        labels, called = join_labels(base, labels), join_names(base, called, kept)
        kept += base.meta.count
        note = join_notes(base, source)
    if labels.rows is not None:
        np.save(folder / "labels.npy", labels.rows)
    if called is not None:
        np.save(folder / TEXT, called.text)
        np.save(folder / ENDS, called.ends)
    embeddings = open_array(folder / "embeddings.npy", "float32", (kept, settings.embedding_dim))
    neighbourhoods = find_neighbours(embeddings, k, exact_up_to, folder=folder)
    if neighbourhoods.radii.max() < IDENTICAL_RADIUS:
        raise DataError(
            f"every picture has {k} or more identical copies: there is nothing to learn "
            "from these neighbourhoods; remove the duplicates"
        )
    print(neighbour_statistics(neighbourhoods, labels.rows), file=sys.stderr)
    meta = DatasetMeta(
        name=note.name,
        count=kept,
        resolution=settings.resolution,
        embedding_dim=settings.embedding_dim,
        neighbours=k,
        class_names=labels.names,
        source=note.source,
        licence=note.licence,
        encoder=EncoderIdentity(
            encoder.architecture, settings.encoder_sha256, encoder.input_size, encoder.embedding_dim
        ),
        unreadable=len(unreadable) + (0 if base is None else base.meta.unreadable),
        files=describe_files(folder),
        crop=settings.crop,
        selection=selection.describe() if selection is not None else base.meta.selection if base else None,
    )
    write_atomically(folder / "dataset.json", meta.to_json())


def tell_unreadable(source: Source, settings: PrepareSettings, partial: Path) -> list[int]:
    """The rows that could not be read, said with their reasons. Raises `DataError` where none could."""
    markers = read_markers(partial, settings)
    unreadable = [row for marker in markers for row in marker["unreadable"]]
    # markers of an older version have no reasons
    reasons = [why for m in markers for why in m.get("reasons", map(source.name, m["unreadable"]))]
    if len(unreadable) == settings.count:
        raise DataError(f"none of the {settings.count} pictures can be read; {reasons[0]}")
    if unreadable:
        names = "".join(f"{source.name(row)}\n" for row in unreadable)
        (partial / "unreadable.txt").write_text(names, encoding="utf-8", errors="surrogateescape")
        print(f"{len(unreadable)} pictures could not be read and are left out:", file=sys.stderr)
        for reason in reasons:  # a picture may be sound, but too large for Pillow, or of a kind it lacks
            tell(f"  {' '.join(reason.split())}")
    return unreadable


def advise(data: PreparedDataset) -> None:
    """Say how alike neighbours are, and what is likely to spoil a training on them."""
    found = likeness(data)
    tell(str(found))
    for warning in warnings(data, found):
        tell(f"warning: {warning}")
    tell(f"to look at neighbourhoods: icgan-train neighbours {data.path} --out neighbours.png")


def publish(partial: Path, finished: Path, out: Path) -> None:
    """Drop what only a continuation needs, and give the complete folder its name."""
    shutil.rmtree(partial / "shards", ignore_errors=True)
    (partial / "settings.json").unlink(missing_ok=True)
    finished.rename(out)
    if finished != partial:  # the pictures that were added to a set
        unreadable = partial / "unreadable.txt"
        if unreadable.exists():
            unreadable.rename(out / unreadable.name)
        shutil.rmtree(partial)


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
