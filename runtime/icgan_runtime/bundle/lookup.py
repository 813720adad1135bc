"""`lookup.onnx` of a bank, written without the onnx package: three nodes, and the stored embeddings.

What `icgan-export` writes through onnx, and a test holds both together. ONNX is protobuf: a message is a row
of fields, each a number, a kind and a value.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

LARGEST = 0.999 * (2**31 - 1)  # bytes of a protobuf message
IR_VERSION = 10
_FLOAT, _INT64 = 1, 7  # types of tensors
_INT = 2  # of an attribute


def fits(embeddings: NDArray[np.float32]) -> bool:
    """Whether one ONNX file holds a bank of [M, D] embeddings and their ids."""
    return embeddings.nbytes + 8 * len(embeddings) <= LARGEST


def lookup_bytes(
    embeddings: NDArray[np.float32],
    ids: NDArray[np.int64],
    neighbours: int,
    opset: int,
    metadata: Mapping[str, str],
) -> bytes:
    """`embedding` [N, D] -> `ids` and `scores` [N, k] of the k nearest rows [M, D], whose ids rise."""
    bank = np.ascontiguousarray(embeddings.T)
    nodes = [
        _node("MatMul", ["embedding", "bank"], ["similarity"], "compare"),
        _node("TopK", ["similarity", "k"], ["scores", "positions"], "nearest", axis=-1, largest=1, sorted=1),
        _node("Gather", ["bank_ids", "positions"], ["ids"], "name_them", axis=0),
    ]
    tensors = [
        _tensor("bank", _FLOAT, bank),
        _tensor("bank_ids", _INT64, ids),
        _tensor("k", _INT64, np.array([neighbours], np.int64)),
    ]
    graph = b"".join(
        [
            *(_field(1, node) for node in nodes),
            _field(2, b"lookup"),
            *(_field(5, tensor) for tensor in tensors),
            _field(11, _described("embedding", _FLOAT, embeddings.shape[1])),
            _field(12, _described("ids", _INT64, neighbours)),
            _field(12, _described("scores", _FLOAT, neighbours)),
        ]
    )
    said = (_field(1, key.encode()) + _field(2, value.encode()) for key, value in metadata.items())
    return b"".join(
        [
            _number(1, IR_VERSION),
            _field(7, graph),
            _field(8, _field(1, b"") + _number(2, opset)),
            *(_field(14, entry) for entry in said),
        ]
    )


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers as 64 bits
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _node(operator: str, inputs: list[str], outputs: list[str], name: str, **attributes: int) -> bytes:
    parts = [_field(1, each.encode()) for each in inputs] + [_field(2, each.encode()) for each in outputs]
    parts += [_field(3, name.encode()), _field(4, operator.encode())]
    for key, value in attributes.items():
        parts.append(_field(5, _field(1, key.encode()) + _number(3, value) + _number(20, _INT)))
    return b"".join(parts)


def _tensor(name: str, kind: int, array: NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    sides = b"".join(_number(1, side) for side in array.shape)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return sides + _number(2, kind) + _field(8, name.encode()) + _field(9, little.tobytes())


def _described(name: str, kind: int, width: int) -> bytes:
    """A tensor [N, width] of the graph's face."""
    shape = _field(1, _field(2, b"N")) + _field(1, _number(1, width))
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, kind) + _field(2, shape)))
