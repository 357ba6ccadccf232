"""A compiled step and the memory of its streams: the states in structs of the step's own, one call for all rows."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import StreamError
from rnn_export.spec import BATCH, TIME, StreamSpec, TensorSpec, sized

if TYPE_CHECKING:
    from rnn_export.runtime.backends.native.slots import NativeSlots

LINE = 64
# One call gives Python's signals no chance, so it ends after about a tenth of a second.
MACS_OF_A_CALL = 10**9
# As many as the extension takes.
AXES = 8

_size, _address = ctypes.c_size_t, ctypes.c_void_p
FACE: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "rnn_state_bytes": (_size, ()),
    "rnn_state_offset": (_size, (_size,)),
    "rnn_weights_bytes": (_size, ()),
    "rnn_macs": (_size, ()),
    "rnn_input_rows": (_size, (_size,)),
    "rnn_check": (ctypes.c_int, (_address, _size)),
    "rnn_init": (None, (_address, _address)),
    "rnn_rows": (None, (_address, _size, _address, _address, _size, _size)),
}


class Library(NamedTuple):
    """A loaded library: its functions, as in `FACE`, and the base class of streams where it fits this Python."""

    call: Any
    stepper: type | None


class NativeSession:
    """The compiled step with its weights; `stepper` is None where it is called through ctypes."""

    device = "cpu"
    has_sequence = True
    batches: tuple[int, int | None] = (1, None)

    def __init__(self, spec: StreamSpec, library: Library, weights: Array | None, precision: str) -> None:
        self.spec, self.call, self.stepper = spec, library.call, library.stepper
        self.weights, self.precision = weights, precision
        self.macs = max(1, int(self.call.rnn_macs()))
        # Of inputs that are an index into a table: its rows.
        rows = {t.name: int(self.call.rnn_input_rows(i)) for i, t in enumerate(spec.inputs)}
        self.rows = {name: n for name, n in rows.items() if n}

    def memory(self, batch: int) -> NativeMemory:
        return NativeMemory(self, batch)

    def slots(self) -> NativeSlots:
        """Raises BackendUnavailable where the library is of before there were any."""
        from rnn_export.runtime.backends.native.slots import NativeSlots

        return NativeSlots(self)

    def bind(self, stream: Any, memory: NativeMemory, x: Array | None, y: Array | None) -> None:
        if x is None or y is None or not all(a.flags.c_contiguous and a.ndim <= AXES for a in (x, y)):
            x = y = None
        inputs, outputs = tuple(memory.inputs.values()), tuple(memory.outputs.values())
        ids = self.rows.get(self.spec.inputs[0].name, 0)
        stream._bind(memory, memory.place, self.spec.chunk, inputs, outputs, x, y, ids)
        if self.rows:
            stream._advance = memory.step


class NativeMemory:
    """Buffers of one stream with the batch outermost, and the states of each row in a struct of the step's own."""

    def __init__(self, session: NativeSession, batch: int) -> None:
        self.session, self.batch = session, batch
        spec, call = session.spec, session.call
        self.inputs = {t.name: _buffer(t, batch, spec.chunk) for t in spec.inputs}
        self.outputs = {t.name: _buffer(t, batch, spec.chunk) for t in spec.outputs}
        size = int(call.rnn_state_bytes())
        stride = max(1, -(-size // LINE)) * LINE
        room = np.zeros(batch * stride + LINE, np.uint8)
        start = -room.ctypes.data % LINE
        structs = room[start : start + batch * stride]
        # The first state, the bytes from row to row, and the rows.
        self.place = int(structs.ctypes.data), stride, batch
        weights = None if session.weights is None else session.weights.ctypes.data
        for row in range(batch):
            call.rnn_init(self.place[0] + row * stride, weights)
        self.states = {
            s.name: state_view(structs, int(call.rnn_state_offset(i)), stride, (batch, *s.row), np.dtype(s.dtype))
            for i, s in enumerate(spec.states)
        }
        self.compute: Callable[[], None] = self._call(list(self.inputs.values()), list(self.outputs.values()), 1)

    def _call(self, inputs: list[Array], outputs: list[Array], steps: int) -> Callable[[], None]:
        """A call of so many steps from and to arrays that lie row after row."""
        address, stride, rows = self.place
        return partial(
            self.session.call.rnn_rows,
            _address(address),
            _size(stride),
            (_address * len(inputs))(*(a.ctypes.data for a in inputs)),
            (_address * len(outputs))(*(a.ctypes.data for a in outputs)),
            _size(rows),
            _size(steps),
        )

    def step(self) -> None:
        check_indices(self.session.rows, "frame", self.inputs)
        self.compute()

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        spec, session = self.session.spec, self.session
        check_indices(session.rows, "sequence", inputs)
        frames = max(inputs[t.name].shape[1] for t in spec.inputs if spec.timed(t))
        steps = frames // spec.chunk
        fed = [_by_step(inputs[t.name], t, spec, steps) for t in spec.inputs]
        given = [np.empty((self.batch, steps, *row_shape(t, spec.chunk)), t.dtype) for t in spec.outputs]
        each = max(1, MACS_OF_A_CALL // (session.macs * self.batch))
        for at in range(0, steps, each):
            piece = slice(at, at + each)
            ins = [np.ascontiguousarray(a[:, piece]) for a in fed]
            outs = [np.empty_like(a[:, piece], order="C") for a in given]
            self._call(ins, outs, outs[0].shape[1])()
            for whole, part in zip(given, outs, strict=True):
                whole[:, piece] = part
        return {t.name: _by_time(a, t, spec) for t, a in zip(spec.outputs, given, strict=True)}

    def read(self) -> dict[str, Array]:
        return {name: np.array(view, order="C") for name, view in self.states.items()}

    def write(self, states: Mapping[str, Array]) -> None:
        for name, view in self.states.items():
            view[...] = states[name]


def check_indices(tables: Mapping[str, int], what: str, inputs: Mapping[str, Array]) -> None:
    """Raise StreamError where an input is beyond the rows of its table: C does not look at an index."""
    for name, rows in tables.items():
        wrong = (inputs[name] < -rows) | (inputs[name] >= rows)
        if wrong.any():
            raise StreamError(
                f"native refused the {what}: {name!r} is out of its table, idx={inputs[name][wrong][0]} must be "
                f"within the inclusive range [{-rows},{rows - 1}]."
            )


def row_shape(tensor: TensorSpec, frames: int) -> tuple[int, ...]:
    """The shape that one row has in a step of so many frames."""
    return sized([dim for dim in tensor.shape if dim != BATCH], 1, frames)


def _buffer(tensor: TensorSpec, batch: int, chunk: int) -> Array:
    """In the shape of the graph, with the values of each row together."""
    return np.moveaxis(np.zeros((batch, *row_shape(tensor, chunk)), tensor.dtype), 0, tensor.axis(BATCH) or 0)


def state_view(structs: Array, offset: int, stride: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """One state of every row, where it lies in the structs."""
    inner = [dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(1, len(shape))]
    return np.ndarray(shape, dtype, structs.data, offset, (stride, *inner))


def _by_step(array: Array, tensor: TensorSpec, spec: StreamSpec, steps: int) -> Array:
    """(batch, time, ...) as (batch, steps, what a step takes); what has no time axis stands in every step."""
    if not spec.timed(tensor):
        return np.broadcast_to(array[:, None], (array.shape[0], steps, *array.shape[1:]))
    if not spec.has_time:
        return array
    cut = array.reshape(array.shape[0], steps, spec.chunk, *array.shape[2:])
    return np.moveaxis(cut, 2, 2 + _time_axis(tensor))


def _by_time(array: Array, tensor: TensorSpec, spec: StreamSpec) -> Array:
    """The inverse, of an output."""
    if not spec.timed(tensor):
        return array[:, -1]
    if not spec.has_time:
        return array
    moved = np.moveaxis(array, 2 + _time_axis(tensor), 2)
    return moved.reshape(array.shape[0], -1, *moved.shape[3:])


def _time_axis(tensor: TensorSpec) -> int:
    """Where time stands in a row."""
    batch, time = tensor.axis(BATCH) or 0, tensor.axis(TIME) or 0
    return time - (batch < time)
