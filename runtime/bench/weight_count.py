"""How many weights a step reads, from its ONNX file: without onnx, so that a device can say it too.

The format is onnx.proto of github.com/onnx/onnx: a model has a graph (field 7), and that has nodes (1) and initializers
(5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

# TensorProto.DataType of the floats.
FLOATS = (1, 10, 11, 16)
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class _Tensor(NamedTuple):
    name: bytes
    kind: int
    values: int


def count_weights(model: bytes) -> int:
    """The floats among the constants of an ONNX graph.

    A table that is only looked up in counts for nothing: a step reads one row of it.
    """
    tensors, read, tables = [], set(), set()
    for graph in _all(model, 7):
        tensors += [_tensor(t) for t in _all(graph, 5)]
        for node in _all(graph, 1):
            inputs = _all(node, 1)
            looked_up = 1 if _all(node, 4) == [b"Gather"] else 0
            tables |= set(inputs[:looked_up])
            read |= set(inputs[looked_up:])
            tensors += [_tensor(t)._replace(name=_all(node, 2)[0]) for a in _all(node, 5) for t in _all(a, 5)]
    return sum(t.values for t in tensors if t.kind in FLOATS and (t.name in read or t.name not in tables))


def _tensor(data: bytes) -> _Tensor:
    dims: list[int] = []
    name, kind = b"", 0
    for number, value in _fields(data):
        if number == 1:
            dims += [value] if isinstance(value, int) else _packed(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, bytes):
            name = value
    return _Tensor(name, kind, math.prod(dims))


def _all(message: bytes, number: int) -> list[bytes]:
    return [value for found, value in _fields(message) if found == number and isinstance(value, bytes)]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: https://protobuf.dev/programming-guides/encoding."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(kind, 0)
        if kind == BYTES:
            size, at = _varint(message, at)
        yield key >> 3, message[at : at + size]
        at += size


def _packed(data: bytes) -> list[int]:
    at, values = 0, []
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
