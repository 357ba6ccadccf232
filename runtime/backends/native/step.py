"""A compiled step: the functions of its library, and how tensors and states lie in memory for them."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import StreamError
from rnn_export.spec import BATCH, StreamSpec, TensorSpec, sized

LINE = 64
SIZE, ADDRESS = ctypes.c_size_t, ctypes.c_void_p
# The functions of a library: what each returns and takes.
FACE: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "rnn_state_bytes": (SIZE, ()),
    "rnn_state_offset": (SIZE, (SIZE,)),
    "rnn_weights_bytes": (SIZE, ()),
    "rnn_macs": (SIZE, ()),
    "rnn_input_rows": (SIZE, (SIZE,)),
    "rnn_check": (ctypes.c_int, (ADDRESS, SIZE)),
    "rnn_init": (None, (ADDRESS, ADDRESS)),
    "rnn_rows": (None, (ADDRESS, SIZE, ADDRESS, ADDRESS, SIZE, SIZE)),
}


@dataclass(frozen=True, eq=False)
class CompiledStep:
    """The step of a contract in C, shared by all streams; `weights` is None where they are part of the code."""

    spec: StreamSpec
    call: Any
    weights: Array | None
    precision: str

    @cached_property
    def macs(self) -> int:
        """Multiplications of one step of one row, at least 1."""
        return max(1, int(self.call.rnn_macs()))

    @cached_property
    def table_rows(self) -> dict[str, int]:
        """Of inputs that are an index into a table, by name: its rows."""
        rows = {t.name: int(self.call.rnn_input_rows(i)) for i, t in enumerate(self.spec.inputs)}
        return {name: n for name, n in rows.items() if n}

    def init(self, address: int) -> None:
        """Make the struct at `address` one of a stream at its start."""
        self.call.rnn_init(address, None if self.weights is None else self.weights.ctypes.data)

    def check_indices(self, what: str, inputs: Mapping[str, Array]) -> None:
        """Raise StreamError where an input is beyond the rows of its table: C does not look at an index."""
        for name, rows in self.table_rows.items():
            wrong = (inputs[name] < -rows) | (inputs[name] >= rows)
            if wrong.any():
                raise StreamError(
                    f"native refused the {what}: {name!r} is out of its table, idx={inputs[name][wrong][0]} must be "
                    f"within the inclusive range [{-rows},{rows - 1}]."
                )

    def state_views(self, structs: Array, stride: int, count: int) -> dict[str, Array]:
        """Each state of `count` streams (count, ...), where it lies in structs that are `stride` bytes apart."""
        views = {}
        for number, state in enumerate(self.spec.states):
            dtype, offset = np.dtype(state.dtype), int(self.call.rnn_state_offset(number))
            inner = [dtype.itemsize * math.prod(state.row[axis + 1 :]) for axis in range(len(state.row))]
            views[state.name] = np.ndarray((count, *state.row), dtype, structs.data, offset, (stride, *inner))
        return views


def aligned(nbytes: int) -> Array:
    """So many zeros, (nbytes,) uint8, at the start of a cache line."""
    block = np.zeros(nbytes + LINE, np.uint8)
    start = -block.ctypes.data % LINE
    return block[start : start + nbytes]


def row_shape(tensor: TensorSpec, frames: int) -> tuple[int, ...]:
    """The shape that one row has in a step of so many frames."""
    return sized([dim for dim in tensor.shape if dim != BATCH], 1, frames)


def addresses(arrays: list[Array]) -> Any:
    """A C array of where each of `arrays` starts."""
    return (ADDRESS * len(arrays))(*(a.ctypes.data for a in arrays))
