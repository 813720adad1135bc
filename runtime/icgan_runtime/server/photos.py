"""What a picture file weighs before it is decoded: how much work waits where, as far as its bytes tell."""

from __future__ import annotations

from collections.abc import Iterable

# A file of this many bytes or more counts as a large photo, of which few may wait; a smaller one for less.
LARGE = 256 << 10
SMALLEST = 1 / 8
LARGE_SHARE = 1 / 12  # of what may wait elsewhere, for each decoder

# A file of our own client (its pixels, as BMP) takes less time than another thread would to wake up.
PLAIN = b"BM"
PLAIN_BYTES = 256 << 10

# Of a request that admits nothing: it comes back when all before it are decoded.
PROBE_ID = "icgan-probe"


def is_plain(file: bytes) -> bool:
    """Whether there is next to nothing to decode."""
    return file.startswith(PLAIN) and len(file) <= PLAIN_BYTES


def load_of(size: float) -> float:
    """What a file of so many bytes counts for: a large photo 1."""
    return min(1.0, max(SMALLEST, size / LARGE))


def load_of_files(files: Iterable[bytes]) -> float:
    """What the different ones of some files count for; those of our own client nothing.

    Told apart by length and both ends, for reading megabytes takes as long as refusing them.
    """
    sizes = {(len(file), file[:64], file[-64:]): len(file) for file in files if file and not is_plain(file)}
    return sum(map(load_of, sizes.values()))


def photo_room(decoders: int, room: float) -> float:
    """How much of that may wait for so many decoders, where elsewhere `room` requests of one row may."""
    return decoders * room * LARGE_SHARE
