"""Pickles of strangers as inert data: what they hold is read, nothing that they name is imported or called.

A pickle is a program that names functions of any library and calls them. Here a name stands for nothing but a
record of what it was called with, for the few names that published files hold; any other name ends the
reading. Arrays and tensors are made from the records afterwards, their sizes checked against their bytes.
Source text inside a file stays text.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icgan_training.errors import WeightsError

# Number types that a file may hold; objects and records are not among them.
NUMBERS = {code: np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1", "u2")}
MAX_VALUES = 1 << 31  # of one array


@dataclass(frozen=True, eq=False)
class InertObject:
    """An object of a class that was not run: its class's name, and its attributes."""

    kind: str
    state: dict[str, Any]


def read_inert(path: Path) -> Any:
    """What a pickle file holds: containers, numbers, text, arrays, tensors and `InertObject`s.

    Raises WeightsError for a file that is missing or damaged, or that names anything but what published
    snapshots hold.
    """
    return load_inert(_bytes_of(path), str(path))


def read_inert_npy(path: Path) -> Any:
    """What a .npy file of one pickled object holds, as `read_inert` gives it. Raises WeightsError."""
    data = _bytes_of(path)
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        of_version = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
        shape, _, dtype = of_version[version > (1, 0)](file)
    except ValueError as error:
        raise WeightsError(f"{path} is not a .npy file: {error}") from error
    if dtype != np.dtype(object) or shape != ():
        raise WeightsError(f"{path} holds {dtype}{list(shape)}; expected one pickled dictionary")
    found = load_inert(data[file.tell() :], str(path))
    return found.item() if isinstance(found, np.ndarray) and found.shape == () else found


def load_inert(data: bytes, origin: str) -> Any:
    """As `read_inert`, of bytes; `origin` names them in errors."""
    try:
        return _plain(_Inert(io.BytesIO(data)).load(), {})
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{origin} is not read: it is damaged, or loading it could run code it carries ({error})"
        ) from error
    except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"{origin} is truncated or no pickle of a published kind ({error})") from error


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise WeightsError(f"{path} does not exist") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


@dataclass
class _Call:
    """What a name was called with, and the state put into what it would have returned."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None

    def __setstate__(self, state: Any) -> None:
        object.__setattr__(self, "state", state)


class _Name:
    """Stands for a function: calling it only takes a note. It takes no attributes."""

    __slots__ = ("_name",)
    _name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __call__(self, *arguments: Any) -> _Call:
        return _Call(self._name, arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"it changes {self._name}")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"it changes {self._name}")


# What published snapshots and stored instances name. The first part of a module's name differs between
# releases of the same library.
_FUNCTIONS = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): "object",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch._utils", "_rebuild_parameter"): "parameter",
    ("torch.storage", "_load_from_bytes"): "storage",
    ("numpy", "dtype"): "dtype",
    ("numpy", "ndarray"): "ndarray",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "_reconstruct"): "array",
}
_DICTIONARIES = {("collections", "OrderedDict"), ("dnnlib.util", "EasyDict"), ("dnnlib", "EasyDict")}


class _Inert(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _DICTIONARIES:
            return type("InertDict", (dict,), {"__slots__": ()})  # its own for every place that names it
        if (module, name) in _FUNCTIONS:
            return _Name(_FUNCTIONS[module, name])
        raise pickle.UnpicklingError(f"it names {module}.{name}")


Made = dict[int, Any]  # id of what was loaded -> its data: what is referred to often is made once


def _plain(value: Any, made: Made) -> Any:
    """The records of a loaded pickle as data. What contains itself ends in a RecursionError."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if id(value) not in made:
        made[id(value)] = _made(value, made)
    return made[id(value)]


def _made(value: Any, made: Made) -> Any:
    if isinstance(value, dict):
        return {_plain(key, made): _plain(item, made) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, made) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item, made) for item in value)
    if isinstance(value, _Call):
        return _MAKERS[value.name](value, made)
    raise ValueError(f"it holds a {type(value).__name__}")


def _object(call: _Call, made: Made) -> InertObject:
    (meta,) = call.arguments
    state = _plain(meta["state"], made)
    if not isinstance(state, dict):
        raise ValueError("an object without attributes")
    return InertObject(str(meta["class_name"]), state)


def _parameter(call: _Call, made: Made) -> Any:
    return _plain(call.arguments[0], made)


def _storage(call: _Call, made: Made) -> Tensor:
    (data,) = call.arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch remarks on pickle protocols
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if isinstance(loaded, torch.storage.TypedStorage):
        values: Tensor = torch.tensor([], dtype=loaded.dtype).set_(loaded._untyped_storage)
        return values.view(-1)
    raise ValueError("a storage of no number type")


def _tensor(call: _Call, made: Made) -> Tensor:
    storage, offset, size, stride = call.arguments[:4]
    values = _plain(storage, made)
    if not isinstance(values, Tensor) or not all(
        type(number) is int and number >= 0 for number in (offset, *size, *stride)
    ):
        raise ValueError("a tensor that is none")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(values):
        raise ValueError("a tensor beyond its storage")
    return values.as_strided(size, stride, offset).clone()


def _number_type(value: Any) -> np.dtype[Any]:
    if not isinstance(value, _Call) or value.name != "dtype" or not value.arguments:
        raise ValueError("numbers of no type")
    code = value.arguments[0]
    if code not in NUMBERS:
        raise ValueError(f"numbers of type {code!r}")
    swapped = isinstance(value.state, tuple) and len(value.state) > 1 and value.state[1] == ">"
    return NUMBERS[code].newbyteorder(">" if swapped else "<")


def _scalar(call: _Call, made: Made) -> Any:
    kind, data = call.arguments
    return np.frombuffer(data, _number_type(kind), 1)[0].item()


def _array(call: _Call, made: Made) -> np.ndarray[Any, Any] | list[Any]:
    """A numpy array from its state: (version, shape, number type, column order, bytes)."""
    _, shape, kind, by_column, data = call.state
    if isinstance(data, list):  # of objects; text, in what is published
        whole = np.empty(len(data), object)
        whole[:] = [_plain(item, made) for item in data]
        return whole.reshape(shape)
    count = int(np.prod(shape, dtype=np.int64)) if shape else 1
    if not all(type(side) is int and side >= 0 for side in shape) or count > MAX_VALUES:
        raise ValueError("an array of impossible shape")
    if isinstance(kind, _Call) and str(kind.arguments[0])[:1] == "U":
        return _texts(kind, data, shape, count)
    numbers = np.frombuffer(data, _number_type(kind))
    return numbers.reshape(shape, order="F" if by_column else "C").copy()


def _texts(kind: _Call, data: bytes, shape: tuple[int, ...], count: int) -> np.ndarray[Any, Any]:
    """An array of text, four bytes a character."""
    width = int(str(kind.arguments[0])[1:])
    if width < 1 or len(data) != 4 * width * count:
        raise ValueError("text of impossible length")
    return np.frombuffer(data, f"<U{width}").reshape(shape).copy()


def _refused(call: _Call, made: Made) -> Any:
    raise ValueError(f"a bare {call.name}")


_MAKERS: dict[str, Callable[[_Call, Made], Any]] = {
    "object": _object,
    "parameter": _parameter,
    "storage": _storage,
    "tensor": _tensor,
    "scalar": _scalar,
    "array": _array,
    "dtype": _refused,
    "ndarray": _refused,
}
