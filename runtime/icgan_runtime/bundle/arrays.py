"""Reading .npy and .npz without pickle and without believing a header.

numpy allocates what a header asks for; here the header is compared with the number of bytes really there
first, so a 1 KiB file cannot ask for a terabyte.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from icgan_runtime.errors import BundleError

_MAGIC = b"\x93NUMPY\x01\x00"
_DTYPES = ("|u1", "|i1", "<i8", "<f4", "<f2")
# Exactly what numpy writes. (numpy's own reader evaluates the header as Python, and tries to mend it first.)
_SIDES = rb"((?:\d{1,18}, ?)*(?:\d{1,18})?)"
_HEADER = re.compile(
    rb"\{'descr': '([^']*)', 'fortran_order': (True|False), 'shape': \(" + _SIDES + rb"\), \} *\n\Z"
)
MAX_HEADER_BYTES = 4096
_ROWS_AT_ONCE = 4096
MAX_NPZ_BYTES = 1 << 30  # of all members together, uncompressed
MAX_NPZ_MEMBERS = 64
# numpy's own. Of the others zipfile unpacks all there is, whatever size the member is said to have.
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

Array = NDArray[Any]


class InBlocks:
    """Rows that are made as they are read, as one array: for numpy some at a time, so that few are held."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found = np.empty(self.shape, self.dtype)
        for start in range(0, len(self), _ROWS_AT_ONCE):
            found[start : start + _ROWS_AT_ONCE] = self[start : start + _ROWS_AT_ONCE]
        return found if dtype is None else found.astype(dtype, copy=False)

    def __matmul__(self, other: Array) -> Array:
        starts = range(0, len(self), _ROWS_AT_ONCE)
        return np.concatenate([self[start : start + _ROWS_AT_ONCE] @ other for start in starts])


def read_npy(data: bytes, name: str) -> Array:
    """Parse one .npy held in memory; `name` appears in errors. The array is read-only and shares `data`."""
    stream = io.BytesIO(data)
    dtype, shape = _header(stream, len(data), name)
    return np.ndarray(shape, dtype, buffer=data, offset=stream.tell())


def map_npy(path: Path, name: str) -> Array:
    """Memory-map one .npy read-only."""
    with path.open("rb") as stream:
        dtype, shape = _header(stream, path.stat().st_size, name)
        return np.memmap(path, dtype=dtype, mode="r", offset=stream.tell(), shape=shape)


def read_npz(data: bytes, name: str) -> dict[str, Array]:
    """Parse a .npz of numeric arrays held in memory."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if len(members) > MAX_NPZ_MEMBERS or size > MAX_NPZ_BYTES:
                raise BundleError(name, f"{len(members)} members of {size} bytes together are too many")
            if not all(member.compress_type in _PACKINGS for member in members):
                raise BundleError(name, "packed in another way than numpy packs a .npz")
            return {
                member.filename.removesuffix(".npy"): read_npy(_inflate(archive, member), name)
                for member in members
            }
    except BundleError:
        raise
    # zipfile lets out many kinds: BadZipFile, zlib.error, ValueError, RuntimeError, ...
    except Exception as error:
        raise BundleError(name, f"not a readable .npz ({error})") from None


def write_npy(path: Path, array: Array) -> None:
    """Write one C-ordered numeric array, or what gives its rows as one does, some at a time."""
    with path.open("wb") as file:
        if isinstance(array, np.ndarray):
            npy.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            return
        kind = npy.dtype_to_descr(array.dtype)
        npy.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": array.shape})
        for start in range(0, len(array), _ROWS_AT_ONCE):
            file.write(np.ascontiguousarray(array[start : start + _ROWS_AT_ONCE]).data)


def require(
    array: Array, name: str, dtype: str, shape: tuple[int | None, ...], what: str = "the manifest"
) -> Array:
    """Return `array` if it has `dtype` and `shape` (None matches any length), else raise BundleError."""
    fits = array.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if array.dtype != np.dtype(dtype) or not fits:
        expected = f"{dtype}[{', '.join('*' if length is None else str(length) for length in shape)}]"
        raise BundleError(name, f"holds {array.dtype}{list(array.shape)}, {what} says {expected}")
    return array


def _inflate(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as stream:
        return stream.read(member.file_size)


def _header(stream: BinaryIO, size: int, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype and shape, leaving `stream` at the data; BundleError unless exactly that much data follows."""
    start = stream.read(10)
    length = int.from_bytes(start[8:], "little")
    if start[:8] != _MAGIC or len(start) != 10 or length > MAX_HEADER_BYTES:
        raise BundleError(name, "not a .npy file of version 1.0")
    header = _HEADER.match(stream.read(length))
    if header is None:
        raise BundleError(name, "its .npy header does not describe a plain array")
    kind, fortran, sides = (part.decode("latin-1") for part in header.groups())
    if kind not in _DTYPES or fortran == "True":
        order = " in column order" if fortran == "True" else ""
        raise BundleError(name, f"holds {kind!r}{order}, expected {', '.join(_DTYPES)} in row order")
    dtype = np.dtype(kind)
    shape = tuple(int(side) for side in sides.replace(",", " ").split())
    if stream.tell() + math.prod(shape) * dtype.itemsize != size:
        raise BundleError(name, f"its header promises {dtype}{list(shape)}, the file has {size} bytes")
    return dtype, shape
