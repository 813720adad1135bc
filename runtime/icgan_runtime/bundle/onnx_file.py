"""What an ONNX file says about itself, read without the onnx package.

ONNX is protobuf, and the few fields needed here are quickly walked: operators, opsets, metadata, the size of
the weights. Nothing is executed or allocated beyond slices of the given bytes. A file that keeps tensors
in other files is refused: a bundle's graphs are self-contained, and a path in a stranger's file is a way out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from icgan_runtime.errors import BundleError

# Field numbers of onnx.proto3.
_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_METADATA, _MODEL_FUNCTIONS = 7, 8, 14, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NODE, _FUNCTION_DEFAULT = 7, 11
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14
_KEY, _VALUE = 1, 2  # of a metadata entry; an opset's domain and version have the same numbers

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 16  # of graphs inside attributes of nodes
# Of one tensor, far more than a file holds: the product of millions of dimensions would take hours.
_MAX_ELEMENTS = 1 << 40

Field = tuple[int, int, "int | memoryview"]


@dataclass(frozen=True)
class OnnxFile:
    """Facts about one ONNX file."""

    bytes: int
    opsets: Mapping[str, int]  # "" is the default domain
    operators: Mapping[str, int]  # name (with its domain unless default) -> how many nodes
    parameters: int  # elements of all initializers
    metadata: Mapping[str, str]


def describe_onnx(data: bytes, file: str) -> OnnxFile:
    """Walk `data`, the bytes of `file`. Raises BundleError unless it is a self-contained ONNX model."""
    operators: Counter[str] = Counter()
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    parameters = graphs = 0
    try:
        for number, _, value in _fields(memoryview(data)):
            if number == _MODEL_GRAPH:
                parameters += _walk_graph(_message(value), operators, _MAX_DEPTH)
                graphs += 1
            elif number == _MODEL_FUNCTIONS:
                for inner, _, node in _fields(_message(value)):
                    if inner == _FUNCTION_NODE:
                        _walk_node(_message(node), operators, _MAX_DEPTH)
                    elif inner == _FUNCTION_DEFAULT:
                        _walk_attribute(_message(node), operators, _MAX_DEPTH)
            elif number == _MODEL_OPSETS:
                fields = {inner: item for inner, _, item in _fields(_message(value))}
                version = fields.get(_VALUE, 0)
                opsets[_text(fields.get(_KEY))] = version if isinstance(version, int) else 0
            elif number == _MODEL_METADATA:
                fields = {inner: item for inner, _, item in _fields(_message(value))}
                metadata[_text(fields.get(_KEY))] = _text(fields.get(_VALUE))
    except (ValueError, IndexError) as error:
        raise BundleError(file, f"not a readable ONNX model ({error})") from None
    if graphs != 1 or not operators:
        raise BundleError(file, "not an ONNX model: it holds no graph")
    return OnnxFile(len(data), opsets, dict(sorted(operators.items())), parameters, metadata)


def _walk_graph(data: memoryview, operators: Counter[str], depth: int) -> int:
    """Count the operators of a graph and of those inside it; returns the elements of its initializers."""
    if depth == 0:
        raise ValueError("graphs are nested too deeply")
    elements = 0
    for number, _, value in _fields(data):
        if number == _GRAPH_NODE:
            elements += _walk_node(_message(value), operators, depth)
        elif number == _GRAPH_INITIALIZER:
            elements += _walk_tensor(_message(value))
        elif number == _GRAPH_SPARSE:
            elements += _walk_sparse(_message(value))
    return elements


def _walk_node(data: memoryview, operators: Counter[str], depth: int) -> int:
    operator = domain = ""
    elements = 0
    for number, _, value in _fields(data):
        if number == _NODE_OPERATOR:
            operator = _text(value)
        elif number == _NODE_DOMAIN:
            domain = _text(value)
        elif number == _NODE_ATTRIBUTE:
            elements += _walk_attribute(_message(value), operators, depth)
    operators[f"{domain}.{operator}" if domain else operator] += 1
    return elements


def _walk_attribute(data: memoryview, operators: Counter[str], depth: int) -> int:
    """Returns the elements of the initializers of graphs in an attribute; its own tensors are constants."""
    elements = 0
    for number, _, value in _fields(data):
        if number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            elements += _walk_graph(_message(value), operators, depth - 1)
        elif number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            _walk_tensor(_message(value))
        elif number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
            _walk_sparse(_message(value))
    return elements


def _walk_sparse(data: memoryview) -> int:
    """A tensor of values and one of the places they stand at; returns the elements of the values."""
    elements = 0
    for number, _, value in _fields(data):
        if number in (_SPARSE_VALUES, _SPARSE_INDICES):
            held = _walk_tensor(_message(value))
            elements += held if number == _SPARSE_VALUES else 0
    return elements


def _walk_tensor(data: memoryview) -> int:
    elements = 1
    for number, wire, value in _fields(data):
        if number == _TENSOR_DIMS:
            for side in (value,) if isinstance(value, int) else _packed(value):
                elements *= side
                if elements > _MAX_ELEMENTS:
                    raise ValueError("a tensor is too large")
        elif number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and wire == _VARINT and value != 0):
            raise ValueError("it keeps tensors in other files")
    return elements


def _packed(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _fields(data: memoryview) -> Iterator[Field]:
    """(field number, wire type, value) of one message; values are integers or slices."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        if tag >> 32:  # other readers drop the bits above, and would see another field than this one
            raise ValueError("a field number is too large")
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            number_value, position = _varint(data, position)
            yield number, wire, number_value
            continue
        if wire == _BYTES:
            length, position = _varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > end:
            raise ValueError("it ends too early")
        yield number, wire, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number is too long")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _text(value: int | memoryview | None) -> str:
    return bytes(_message(value)).decode() if value is not None else ""
