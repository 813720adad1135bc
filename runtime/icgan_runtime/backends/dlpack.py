"""Arrays handed over without a copy: DLPack (https://dmlc.github.io/dlpack/latest/c_api.html), both ways.

Whatever speaks the protocol (torch, CuPy, JAX, numpy, ONNX Runtime) is read as a `View`, an address with
shape and dtype; a `Tensor` offers memory of ours to the same libraries. The structs are the unversioned ones,
which every consumer knows.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from icgan_runtime.errors import BackendError

CPU, CUDA = 1, 2  # DLDeviceType
NAME = b"dltensor"
KINDS = {0: "i", 1: "u", 2: "f"}  # DLDataTypeCode -> numpy kind


class _Device(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


@dataclass(frozen=True)
class View:
    """C-contiguous memory of another library, valid while the view is held."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    capsule: Any = field(repr=False)  # its destructor gives the memory back


@dataclass(frozen=True)
class Tensor:
    """Memory of ours for `torch.from_dlpack` and its like; `owner` lives as long as what they make of it."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: tuple[int, int]
    owner: Any = field(default=None, repr=False)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: Any = None, **options: Any) -> Any:
        """A capsule. The memory is ready on every stream; `options` of newer consumers ask for no more."""
        sides = (ctypes.c_int64 * len(self.shape))(*self.shape)
        code = next(code for code, kind in KINDS.items() if kind == self.dtype.kind)
        tensor = _DLTensor(
            self.address,
            _Device(*self.device),
            len(self.shape),
            _DataType(code, 8 * self.dtype.itemsize, 1),
            sides,
            None,
            0,
        )
        managed = _Managed(tensor, None, _release)
        place = ctypes.addressof(managed)
        _handed_out[place] = (managed, sides, self.owner)
        return _python.PyCapsule_New(place, NAME, _destroy)


def view(name: str, array: Any, device: int, stream: int | None = None) -> View:
    """Read `array`, called `name` in messages, which must lie on a device of that kind and be C-contiguous.

    On a GPU, `stream` waits for the work that fills the array. Raises BackendError for what does not fit.
    """
    if not hasattr(array, "__dlpack__"):
        raise BackendError(f"{name} is a {type(array).__name__} without __dlpack__")
    kind, _ = array.__dlpack_device__()
    if kind != device:
        raise BackendError(f"{name} lies on device type {kind}, expected {device} (1: host, 2: CUDA)")
    try:
        capsule = array.__dlpack__() if kind == CPU else array.__dlpack__(stream=stream)
    except (BufferError, RuntimeError) as error:
        raise BackendError(f"{name} cannot be handed over: {error}") from None
    tensor = ctypes.cast(
        _python.PyCapsule_GetPointer(capsule, NAME), ctypes.POINTER(_Managed)
    ).contents.tensor
    shape = tuple(tensor.shape[index] for index in range(tensor.ndim))
    if tensor.dtype.lanes != 1 or tensor.dtype.code not in KINDS:
        raise BackendError(f"{name} has a type that numpy does not know")
    if tensor.strides:
        strides = tuple(tensor.strides[index] for index in range(tensor.ndim))
        expected = tuple(int(np.prod(shape[index + 1 :])) for index in range(tensor.ndim))
        if any(a != b for a, b, side in zip(strides, expected, shape, strict=True) if side > 1):
            raise BackendError(f"{name} is not C-contiguous")
    dtype = np.dtype(f"{KINDS[tensor.dtype.code]}{tensor.dtype.bits // 8}")
    return View((tensor.data or 0) + tensor.byte_offset, shape, dtype, capsule)


_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _Destructor]
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
# the same two for a capsule that is being destroyed: as a py_object it would be brought back to life
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _python)
)
_handed_out: dict[int, Any] = {}  # address of a managed tensor -> what must outlive it


def _let_go(managed: int) -> None:
    """The consumer needs the memory no longer."""
    _handed_out.pop(managed, None)


def _let_go_untaken(capsule: int) -> None:
    """Nobody took the capsule: a consumer would have renamed it."""
    if _is_valid(capsule, NAME):
        _let_go(_pointer(capsule, NAME))


_release = _Deleter(_let_go)
_destroy = _Destructor(_let_go_untaken)
