"""The one file that imports h5py: the published system's pictures.

`imgs` is uint8 [N, 3, R, R], `labels` integers [N]. The other files of that system are not read:
features and neighbours are computed anew by `prepare`, and lists of chosen instances are pickles, which
nothing here opens.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.errors import MissingExtraError
from icgan_runtime.identity import CENTRE
from icgan_training.data.containers import Blocks
from icgan_training.data.transforms import square
from icgan_training.errors import DataError

MAX_BLOCK_BYTES = 64 << 20


class Hdf5:
    """The rows of an HDF5 file, by whole chunks: a single row of a compressed one costs its chunk."""

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        try:
            import h5py
        except ImportError as error:
            raise MissingExtraError("h5py", "hdf5") from error
        self.path = path
        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            raise DataError(f"{path} is not an HDF5 file ({error})") from error
        self.images = self._array("imgs", h5py)
        if self.images is None:
            raise DataError(f"{path} holds {', '.join(self.file) or 'nothing'}; `imgs` is needed")
        shape, dtype = self.images.shape, self.images.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[1] != 3:
            raise DataError(f"{path}: imgs is {dtype} {list(shape)}, expected uint8 [N, 3, R, R]")
        chunk = self.images.chunks[0] if self.images.chunks else 512
        self.block = max(1, min(chunk, MAX_BLOCK_BYTES // max(1, int(np.prod(shape[1:])))))
        self.blocks = Blocks(self._load)
        labels = self._array("labels", h5py)
        if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
            raise DataError(f"{path}: labels is {labels.dtype} {list(labels.shape)}, expected integers [N]")
        if labels is not None and len(labels) != len(self):
            raise DataError(f"{path}: labels has {len(labels)} rows, imgs has {len(self)}")
        self.labels: list[int] | None = None if labels is None else labels[:].tolist()

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def name(self, row: int) -> str:
        """The file and the row."""
        return f"{self.path} row {row}"

    def called(self, row: int) -> str:
        """Nothing: rows have no names."""
        return ""

    def read(self, row: int, resolution: int, crop: str = CENTRE) -> NDArray[np.uint8]:
        """One picture [R, R, 3]."""
        block, place = divmod(row, self.block)
        return square(self.blocks[block][place].transpose(1, 2, 0), resolution, crop)

    def identity(self) -> Iterator[bytes]:
        """Name and shape."""
        yield f"{self.path.name} {self.images.shape}".encode("utf-8", "surrogateescape")

    def _load(self, number: int) -> NDArray[np.uint8]:
        start = number * self.block
        try:
            rows: NDArray[np.uint8] = self.images[start : start + self.block]
        except OSError as error:
            raise DataError(f"{self.path} from row {start} on cannot be read ({error})") from error
        return rows

    def _array(self, name: str, h5py: Any) -> Any:
        """A data set of this very file: links and external storage would read others."""
        if name not in self.file:
            return None
        found = self.file[name] if isinstance(self.file.get(name, getlink=True), h5py.HardLink) else None
        if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
            raise DataError(f"{self.path}: {name} is not an array of this file")
        return found
