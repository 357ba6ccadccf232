"""The memory of a native stream: the states in structs of the step's own, one call for all rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from rnn_export.arrays import Array
from rnn_export.runtime.backends.api import StreamBuffers
from rnn_export.runtime.backends.native.step import ADDRESS, LINE, SIZE, CompiledStep, addresses, aligned, row_shape
from rnn_export.spec import BATCH, TIME, StreamSpec, TensorSpec

# One call gives Python's signals no chance, so it ends after about a tenth of a second.
MACS_OF_A_CALL = 10**9


class NativeBuffers(StreamBuffers):
    """Buffers of one stream with the batch outermost, and the states of each row in a struct of the step's own."""

    def __init__(self, compiled: CompiledStep, batch: int) -> None:
        self.compiled, self.batch = compiled, batch
        spec = compiled.spec
        self.inputs = {t.name: _buffer(t, batch, spec.chunk) for t in spec.inputs}
        self.outputs = {t.name: _buffer(t, batch, spec.chunk) for t in spec.outputs}
        stride = max(1, -(-int(compiled.call.rnn_state_bytes()) // LINE)) * LINE
        self.structs = aligned(batch * stride)
        # The first struct, the bytes from row to row, and the rows.
        self.place = int(self.structs.ctypes.data), stride, batch
        for row in range(batch):
            compiled.init(self.place[0] + row * stride)
        self.states = compiled.state_views(self.structs, stride, batch)
        self.compute = self.call_of(list(self.inputs.values()), list(self.outputs.values()), 1)

    def call_of(self, inputs: list[Array], outputs: list[Array], steps: int) -> Callable[[], None]:
        """A call of so many steps from and to arrays that lie row after row."""
        address, stride, rows = self.place
        sizes = SIZE(rows), SIZE(steps)
        return partial(
            self.compiled.call.rnn_rows, ADDRESS(address), SIZE(stride), addresses(inputs), addresses(outputs), *sizes
        )

    def step(self) -> None:
        self.compiled.check_indices("frame", self.inputs)
        self.compute()

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        spec = self.compiled.spec
        self.compiled.check_indices("sequence", inputs)
        frames = max(inputs[t.name].shape[1] for t in spec.inputs if spec.timed(t))
        steps = frames // spec.chunk
        by_step = [_by_step(inputs[t.name], t, spec, steps) for t in spec.inputs]
        results = [np.empty((self.batch, steps, *row_shape(t, spec.chunk)), t.dtype) for t in spec.outputs]
        each = max(1, MACS_OF_A_CALL // (self.compiled.macs * self.batch))
        for start in range(0, steps, each):
            piece = slice(start, start + each)
            ins = [np.ascontiguousarray(a[:, piece]) for a in by_step]
            outs = [np.empty_like(a[:, piece], order="C") for a in results]
            self.call_of(ins, outs, outs[0].shape[1])()
            for result, part in zip(results, outs, strict=True):
                result[:, piece] = part
        return {t.name: _by_time(a, t, spec) for t, a in zip(spec.outputs, results, strict=True)}

    def read(self) -> dict[str, Array]:
        return {name: np.array(view, order="C") for name, view in self.states.items()}

    def write(self, states: Mapping[str, Array]) -> None:
        for name, view in self.states.items():
            view[...] = states[name]


def _buffer(tensor: TensorSpec, batch: int, chunk: int) -> Array:
    """In the shape of the graph, with the values of each row together."""
    return np.moveaxis(np.zeros((batch, *row_shape(tensor, chunk)), tensor.dtype), 0, tensor.axis(BATCH) or 0)


def _by_step(array: Array, tensor: TensorSpec, spec: StreamSpec, steps: int) -> Array:
    """(batch, time, ...) as (batch, steps, what a step takes); what has no time axis stands in every step."""
    if not spec.timed(tensor):
        return np.broadcast_to(array[:, None], (array.shape[0], steps, *array.shape[1:]))
    if not spec.has_time:
        return array
    cut = array.reshape(array.shape[0], steps, spec.chunk, *array.shape[2:])
    return np.moveaxis(cut, 2, 2 + _time_axis(tensor))


def _by_time(array: Array, tensor: TensorSpec, spec: StreamSpec) -> Array:
    """(batch, steps, what a step gives) as (batch, time, ...); without a time axis, as of the last step."""
    if not spec.timed(tensor):
        return array[:, -1]
    if not spec.has_time:
        return array
    moved = np.moveaxis(array, 2 + _time_axis(tensor), 2)
    return moved.reshape(array.shape[0], -1, *moved.shape[3:])


def _time_axis(tensor: TensorSpec) -> int:
    """Which axis of a row is time."""
    batch, time = tensor.axis(BATCH) or 0, tensor.axis(TIME) or 0
    return time - (batch < time)
