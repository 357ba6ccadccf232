"""A step in C as a backend drives it, whatever it is compiled for: layout of rows, and checks that C lacks."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from rnn_export.contract.spec import BATCH, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array

EACH = slice(None)


def contract_sha256(spec: StreamSpec) -> str:
    """The sha256 of a compiled step's contract: chunk, and name, dtype and shape of each tensor, in order."""
    groups = (spec.inputs, spec.outputs, spec.states)
    ports = [[(tensor.name, tensor.dtype, tensor.shape) for tensor in group] for group in groups]
    return hashlib.sha256(json.dumps([spec.chunk, ports]).encode()).hexdigest()


def row_shape(tensor: TensorSpec, frames: int) -> tuple[int, ...]:
    """The shape that one row has in a step of so many frames."""
    return sized([dim for dim in tensor.shape if dim != BATCH], 1, frames)


def row_buffer(tensor: TensorSpec, batch: int, chunk: int) -> Array:
    """In the shape of the graph, with the values of each row together."""
    return np.moveaxis(np.zeros((batch, *row_shape(tensor, chunk)), tensor.dtype), 0, tensor.axis(BATCH) or 0)


def check_indices(backend: str, table_rows: Mapping[str, int], what: str, inputs: Mapping[str, Array]) -> None:
    """Raise StreamError where an input is beyond the rows of its table: C does not look at an index."""
    for name, rows in table_rows.items():
        wrong = (inputs[name] < -rows) | (inputs[name] >= rows)
        if wrong.any():
            why = f"idx={inputs[name][wrong][0]} must be within the inclusive range [{-rows},{rows - 1}]"
            raise StreamError(
                f"{backend} refused the {what}: {name!r} is out of its table, {why}.", id="index-beyond-table"
            )


class WrongIndices(NamedTuple):
    """A compiled step's errors in indices that it computes: texts, and the offset of a text's number in structs.

    The number counts from 1, and stays until states are written; the state is then that of a wrong index.
    """

    texts: tuple[str, ...]
    offset: int

    def numbers(self, structs: Array) -> Array:
        """Those of structs (count, stride), uint8: a view."""
        numbers: Array = structs[:, self.offset : self.offset + 4].view(np.uint32)
        return numbers

    def check(self, backend: str, what: str, structs: Array) -> None:
        """Raise StreamError where one of the structs has a number."""
        if found := int(self.numbers(structs).max()):
            raise StreamError(
                f"{backend} refused the {what}: {self.texts[found - 1]}.", id="computed-index-beyond-table"
            )


class StatePlace(NamedTuple):
    """The place of a state in a struct: the bytes before its memory, and those before the number of values in front.

    The latter, `front`, is 0 unless the state is a window that moves along over its memory.
    """

    state: StateSpec
    offset: int
    front: int

    def views(self, structs: Array) -> list[Array]:
        """The state of each of structs (count, stride), uint8, as it lies there: arrays of one row."""
        dtype, shape, offset = np.dtype(self.state.dtype), self.state.row, self.offset
        fronts = structs[:, self.front : self.front + 4].view(np.uint32)[:, 0] if self.front else [0] * len(structs)
        size = dtype.itemsize * math.prod(shape)
        starts = [offset + dtype.itemsize * int(front) for front in fronts]
        return [struct[at : at + size].view(dtype).reshape(shape) for struct, at in zip(structs, starts, strict=True)]

    def fixed(self, structs: Array) -> Array:
        """The same as one array (count, ...), of a state that stays where it is."""
        nbytes = np.dtype(self.state.dtype).itemsize * math.prod(self.state.row)
        cut = structs[:, self.offset : self.offset + nbytes]
        return cut.view(self.state.dtype).reshape(len(structs), *self.state.row)


class StatePlaces:
    """The states of a contract in structs of a compiled step; `offset` and `front` give the place of each by number."""

    def __init__(self, spec: StreamSpec, offset: Callable[[int], int], front: Callable[[int], int]) -> None:
        self.places = [StatePlace(state, int(offset(i)), int(front(i))) for i, state in enumerate(spec.states)]

    def read(self, structs: Array) -> dict[str, Array]:
        """Copies by name, (count, ...), of structs (count, stride)."""
        empty = len(structs) == 0
        return {
            place.state.name: np.array(place.fixed(structs) if empty or not place.front else place.views(structs))
            for place in self.places
        }

    def write(self, structs: Array, states: Mapping[str, Array], rows: Array | slice = EACH) -> None:
        """Set those of some rows of the structs to `states`, of as many rows."""
        for place in self.places:
            values = states[place.state.name]
            if not place.front:
                place.fixed(structs)[rows] = values
                continue
            numbers = np.arange(len(structs))[rows]
            for number, value in zip(numbers, values, strict=True):
                place.views(structs[number : number + 1])[0][...] = value
