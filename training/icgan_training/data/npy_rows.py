"""Rows of a `.npy` file, written and moved in place."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_training.errors import DataError


class Rows:
    """Writes and moves rows of a `.npy` file in place with plain file calls, which keep memory small."""

    def __init__(self, path: Path) -> None:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        self.count, self.row_shape = len(array), array.shape[1:]
        self.dtype, self.offset = array.dtype, array.offset
        self.row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:]))
        self.path = path
        self.file = path.open("r+b", buffering=0)

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, places: NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Put rows at ascending places, and on the disk before returning. `DataError` when it refuses."""
        try:
            for run in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) != 1) + 1):
                self._put(rows[run].astype(self.dtype).tobytes(), int(places[run[0]]))
            os.fsync(self.file.fileno())
        except OSError as error:
            raise DataError(
                f"{self.path} could not be written ({error}): free some space and run the same command again"
            ) from error

    def move(self, row: int, to: int) -> None:
        """Copy a row to another place."""
        self._put(os.pread(self.file.fileno(), self.row_bytes, self.offset + row * self.row_bytes), to)

    def _put(self, content: bytes, row: int) -> None:
        """Write all of `content` from `row` on; a disk that is almost full takes a part and says nothing."""
        rest, place = memoryview(content), self.offset + row * self.row_bytes
        while rest:
            written = os.pwrite(self.file.fileno(), rest, place)
            rest, place = rest[written:], place + written

    def shorten(self, count: int) -> None:
        """Cut the file to `count` rows; the header keeps its length."""
        with self.path.open("r+b") as file:
            header = {"descr": self.dtype.str, "fortran_order": False, "shape": (count, *self.row_shape)}
            np.lib.format.write_array_header_1_0(file, header)
            if file.tell() != self.offset:
                raise RuntimeError(f"{self.path}: header grew from {self.offset} to {file.tell()} bytes")
            file.truncate(self.offset + count * self.row_bytes)
