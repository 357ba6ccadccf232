"""A step as statements of C over tensors, and where each tensor lies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import onnx_ir as ir

from rnn_export.arrays import Array
from rnn_export.errors import ExportError
from rnn_export.export.targets.c.weights import Weights
from rnn_export.runtime.build.native.c_types import C_TYPES, SIZES

DTYPES = (ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
# Floats; so that every tensor in the scratch starts on a cache line.
LINE = 16
END = 1 << 30


@dataclass
class Room:
    """Floats of the scratch that are taken from the node `first` to the node `last`."""

    size: int
    first: int
    last: int
    offset: int = 0


@dataclass(frozen=True)
class Tensor:
    """A dense array. `text` is its address in C, `array` its value where it is a constant."""

    text: str
    kind: str
    shape: tuple[int, ...]
    room: Room | None = None
    array: Array | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def part(self, offset: int, shape: Sequence[int]) -> Tensor:
        """`shape` values of it from `offset` on, as they lie."""
        flat = None if self.array is None else self.array.reshape(-1)[offset : offset + math.prod(shape)].reshape(shape)
        return replace(self, text=f"({self.text} + {offset})" if offset else self.text, shape=tuple(shape), array=flat)


class Program:
    """Collects the statements of a step.

    Attributes:
        weights: the constants that the statements name.
        macs: multiply-adds so far.
        libm: operators that need the host's mathematical library.
        tables: rows of the table that an input is an index of, by its address.
        done: nodes that were said with an earlier one.
        scales: of the calibrated activations by name of the tensor, for int8.
        asked: those that were asked for, in order.
    """

    def __init__(self, weights: Weights, precision: str, scales: dict[str, float] | None = None) -> None:
        self.weights, self.precision, self.scales = weights, precision, scales or {}
        self.statements: list[str] = []
        self.names: list[tuple[str, str, Room | int]] = []
        self.tensors: dict[ir.Value, Tensor] = {}
        self.macs, self.now, self.depth = 0, 0, 1
        self.libm: set[str] = set()
        self.tables: dict[str, int] = {}
        self.done: set[ir.Node] = set()
        self.asked: list[float] = []

    # --- statements

    def say(self, text: str) -> None:
        self.statements.append("    " * self.depth + text)

    @contextmanager
    def loop(self, variable: str, count: int, down: bool = False) -> Iterator[None]:
        """A loop over `count` numbers; one of a single number is still a block."""
        self.say(
            f"for (int {variable} = {count - 1}; {variable} >= 0; {variable}--) {{"
            if down
            else f"for (int {variable} = 0; {variable} < {count}; {variable}++) {{"
        )
        self.depth += 1
        yield
        self.depth -= 1
        self.say("}")

    # --- tensors

    def get(self, value: ir.Value) -> Tensor:
        """The tensor of a value; a constant becomes a weight when it is read."""
        if value not in self.tensors:
            assert value.const_value is not None
            array = value.const_value.numpy()
            self.tensors[value] = Tensor("", self.kind(value), array.shape, array=array)
        tensor = self.tensors[value]
        if tensor.room is not None:
            tensor.room.last = max(tensor.room.last, self.now)
        return tensor

    def read(self, node: ir.Node, index: int) -> Tensor:
        """An input that is there, as something with an address."""
        value = node.inputs[index]
        assert value is not None
        return self.addressed(self.get(value))

    def addressed(self, tensor: Tensor) -> Tensor:
        return tensor if tensor.text else replace(tensor, text=self.weights.plain(tensor.array))

    def constant(self, node: ir.Node, index: int) -> Array | None:
        """The value of an input, or None where it is left out; raises ExportError where it is not constant."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return None
        array = self.get(value).array
        if array is None:
            raise refusal(node, f"its input {value.name!r} is computed, and only a constant can be written there")
        return array

    def make(self, node: ir.Node, index: int = 0) -> Tensor:
        """Room for an output."""
        value = node.outputs[index]
        tensor = self.room(self.kind(value), shape_of(value))
        self.tensors[value] = tensor
        return tensor

    def alias(self, node: ir.Node, tensor: Tensor, index: int = 0) -> None:
        """An output that is part of what is there already."""
        value = node.outputs[index]
        shape = shape_of(value)
        if math.prod(shape) != tensor.size:
            raise refusal(node, f"it makes {list(shape)} of {tensor.size} values, as if that did not follow the batch")
        self.tensors[value] = tensor.part(0, shape)

    def room(self, kind: str, shape: Sequence[int]) -> Tensor:
        """Room for a value that is written now."""
        name, size = f"t{len(self.names)}", max(math.prod(shape), 1)
        room = Room(size, self.now, self.now) if kind == "float" else None
        self.names.append((name, kind, room or size))
        return Tensor(name, kind, tuple(shape), room)

    def scale(self, name: str) -> float:
        """The calibrated largest magnitude of the tensor `name`; 0 where it has none."""
        self.asked.append(self.scales.get(name, 0.0))
        return self.asked[-1]

    def kind(self, value: ir.Value) -> str:
        assert value.dtype is not None
        if value.dtype not in DTYPES:
            raise ExportError(
                f"{value.name!r} is {value.dtype.name.lower()}, which is not written in C: "
                "a step has float32, int64, int32 and bool."
            )
        return C_TYPES[value.dtype.numpy().name]

    def declarations(self) -> tuple[list[str], int]:
        """The rooms laid out so that those used at different times share memory, and the bytes of them all."""
        rooms = [room for _, _, room in self.names if isinstance(room, Room)]
        floats = lay_out(rooms)
        lines = [f"RNN_ALIGNED float scratch[{floats}];"] if floats else []
        for name, kind, room in self.names:
            if isinstance(room, Room):
                lines.append(f"float *const {name} = scratch + {room.offset};")
            else:
                lines.append(f"{kind} {name}[{room}];")
        others = sum(SIZES[kind] * room for _, kind, room in self.names if isinstance(room, int))
        return lines, 4 * floats + others


def strides_of(shape: Sequence[int]) -> list[int]:
    """Of an array without gaps."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def position(names: Sequence[str], strides: Sequence[int]) -> str:
    """Where the loops over `names` are in an array of these strides, as an expression of C."""
    return " + ".join(f"{name} * {step}" for name, step in zip(names, strides, strict=True)) or "0"


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The numbers of a shape that is fixed."""
    return () if value.shape is None else tuple(value.shape.numpy())


def lay_out(rooms: Sequence[Room]) -> int:
    """Give each room the lowest place that no room of the same time takes, the largest first; the floats in all."""
    placed: list[Room] = []
    for room in sorted(rooms, key=lambda r: -r.size):
        taken = sorted(
            (r.offset, r.offset + padded(r.size)) for r in placed if r.first <= room.last and room.first <= r.last
        )
        room.offset = 0
        for start, stop in taken:
            if room.offset + padded(room.size) <= start:
                break
            room.offset = max(room.offset, stop)
        placed.append(room)
    return max((r.offset + padded(r.size) for r in placed), default=0)


def padded(size: int) -> int:
    return -(-size // LINE) * LINE


def refusal(node: ir.Node, reason: str) -> ExportError:
    return ExportError(f"node {node.name!r} ({node.op_type}) cannot be written in C: {reason}.")
