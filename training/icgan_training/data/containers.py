"""What the containers of `prepare` have in common: rows of pictures that can be read in any order.

A container lists its rows once, in arrays of a few bytes a row, and reads pictures when they are asked for,
by several threads at once; `prepare` asks for them in order, a shard at a time.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.identity import CENTRE
from icgan_runtime.images import sniff

LOOKED_AT = 32
RECOMPRESSED = (
    "the JPEGs are of quality 75, as programs write them that decode and encode again (datasets' map,"
    " mosaicml): where you have the files from before, prepare those"
)
_TABLE, _PLACE = b"\xff\xdb", 5  # its marker, and where in the segment the numbers begin
# The usual quantisation of brightness at quality 75, in the order of the file.
_QUALITY_75 = bytes([
    8, 6, 6, 7, 6, 5, 8, 7, 7, 7, 9, 9, 8, 10, 12, 20, 13, 12, 11, 11, 12, 25, 18, 19, 15, 20, 29, 26, 31,
    30, 29, 26, 28, 28, 32, 36, 46, 39, 32, 34, 44, 35, 28, 28, 40, 55, 41, 44, 48, 49, 52, 52, 52, 31, 39,
    57, 61, 56, 50, 60, 46, 51, 52, 50,
])  # fmt: skip
Block = TypeVar("Block")


class Container(Protocol):
    """Rows of pictures in files of another kind."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What a message calls a picture."""

    def called(self, row: int) -> str:
        """The file that a picture was, "" where the container does not say."""

    def read(self, row: int, resolution: int, crop: str = CENTRE) -> NDArray[np.uint8]:
        """One picture [R, R, 3]; `DataError` for one that cannot be decoded."""

    def identity(self) -> Iterator[bytes]:
        """What a continued run compares, besides labels."""


class Blocks(Generic[Block]):
    """The last few blocks of rows, so that rows in order read each block once; safe to share by threads."""

    def __init__(self, load: Callable[[int], Block], kept: int = 2) -> None:
        self._load, self._kept, self._lock = load, kept, Lock()
        self._held: OrderedDict[int, Block] = OrderedDict()

    def __getitem__(self, number: int) -> Block:
        with self._lock:
            if number not in self._held:
                self._held[number] = self._load(number)
            self._held.move_to_end(number)
            while len(self._held) > self._kept:
                self._held.popitem(last=False)
            return self._held[number]


def look_recompressed(files: Iterator[bytes]) -> bool:
    """Whether the first pictures are all JPEGs that bear the marks of an encoder's usual setting."""
    seen = 0
    for data in files:
        start = data.find(_TABLE) + _PLACE
        if sniff(data) != "JPEG" or data[start : start + 64] != _QUALITY_75:
            return False
        seen += 1
    return seen > 0
