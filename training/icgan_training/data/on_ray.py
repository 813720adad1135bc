"""The shards of `prepare` as tasks of Ray: pictures are read where the task runs, results written here.

Only the source has to be seen by every node; the encoder travels to each once, and the partial folder stays
with the command. A task takes a batch's thread for each of its processors, so its bytes are those of one
process.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch

from icgan_runtime.cluster import Place, spread
from icgan_training.data.dataset import ENCODER
from icgan_training.data.shards import Filled, PrepareSettings, ShardWriter, decode_ahead, make_shard
from icgan_training.data.sources import Source, listing_sha256, open_source
from icgan_training.distributed import ALONE, local_device
from icgan_training.errors import DataError
from icgan_training.networks.encoder import Encoder, fold_batch_norm, load_encoder


def fill_on_ray(source: Source, settings: PrepareSettings, partial: Path, place: Place) -> None:
    """Decode and embed the unfinished shards on a cluster. Raises IcganError."""
    with ShardWriter.open(settings, partial, ALONE) as writer:

        def store(number: int, shard: Filled) -> None:
            writer.store(number, shard)
            writer.progress.advance(len(shard.places) + len(shard.reasons))

        todo = (
            (number, (source.part(rows), rows.start, rows.stop, place.cpus)) for number, rows in writer.todo
        )
        encoder = (partial / ENCODER).read_bytes()
        spread(_make, todo, store, place, (encoder, settings, source.labels is not None))


def _make(
    encoder: bytes,
    settings: PrepareSettings,
    labelled: bool,
    part: Source | None,
    start: int,
    stop: int,
    threads: int,
) -> Filled:
    """A task: one shard, of a source that came along, or of one that is opened here."""
    torch.set_num_threads(threads)
    network, device = _network(encoder, settings.encoder_sha256)
    source, rows = (part, slice(0, stop - start)) if part is not None else (None, slice(start, stop))
    if source is None:
        source = _opened(settings.source, labelled, settings.listing_sha256)
    with ThreadPoolExecutor(threads) as pool:
        _, _, decoded = next(decode_ahead(source, [(0, rows)], settings.resolution, pool))
    names = [source.name(row) for row in range(rows.start, rows.stop)]
    return make_shard(network, device, decoded, names, lambda _: None)


_networks: dict[str, tuple[Encoder, torch.device]] = {}


def _network(content: bytes, sha256: str) -> tuple[Encoder, torch.device]:
    """A process loads the encoder once."""
    if sha256 not in _networks:
        with tempfile.TemporaryDirectory(prefix="icgan-") as folder:
            (Path(folder) / ENCODER).write_bytes(content)
            network = load_encoder(Path(folder) / ENCODER)
        device = local_device()
        _networks[sha256] = fold_batch_norm(network).to(device), device
    return _networks[sha256]


@lru_cache(maxsize=1)
def _opened(origin: str, labelled: bool, listing: str) -> Source:
    source = open_source(origin, use_labels=labelled)
    if listing_sha256(source) != listing:
        raise DataError(f"{origin} is not the same on all nodes: give a path that they share")
    return source
