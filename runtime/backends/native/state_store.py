"""The states of a pool's streams in structs of the step's own, any of them stepped in one call."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import BackendUnavailable
from rnn_export.runtime.backends.api import StateStore
from rnn_export.runtime.backends.native.step import ADDRESS, SIZE, CompiledStep, addresses, aligned, row_shape
from rnn_export.spec import BATCH

# Bytes that the address of a struct is a multiple of.
ALIGNED = 16


class NativeStateStore(StateStore):
    """The structs one after the other, in memory that `grow` replaces."""

    def __init__(self, compiled: CompiledStep) -> None:
        self.compiled, self.spec = compiled, compiled.spec
        try:
            self.call = compiled.call.rnn_pool
        except AttributeError as error:
            raise BackendUnavailable(
                "native.so was compiled by an rnn-export that did not step many streams at once. Build it here: "
                f"rnn-export build NAME.rnnx --target c --precision {compiled.precision} --rebuild."
            ) from error
        self.call.restype = SIZE
        self.call.argtypes = (ADDRESS, SIZE, ADDRESS, ADDRESS, ADDRESS, SIZE, ADDRESS)
        self.stride = max(1, -(-int(compiled.call.rnn_state_bytes()) // ALIGNED)) * ALIGNED
        # The last struct is no slot's but a stream at the start.
        self.structs = self._allocate(1)
        compiled.init(self.structs.ctypes.data)
        self.grow(0)

    @property
    def nbytes(self) -> int:
        return self.structs.nbytes

    def grow(self, count: int) -> None:
        before, structs = self.structs, self._allocate(count + 1)
        kept = min(len(before) - 1, count)
        structs[:kept] = before[:kept]
        structs[kept:] = before[-1]
        self.structs, self.states = structs, self.compiled.state_views(structs, self.stride, count)

    def _allocate(self, count: int) -> Array:
        return aligned(count * self.stride).reshape(count, self.stride)

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        """As `StateStore` has it; raises StreamError where an index is beyond its table."""
        self.compiled.check_indices("frame", inputs)
        count, spec = len(slots), self.spec
        rows = np.ascontiguousarray(slots, np.int64)
        ins = [np.ascontiguousarray(np.moveaxis(inputs[t.name], t.axis(BATCH) or 0, 0)) for t in spec.inputs]
        outs = [np.empty((count, *row_shape(t, spec.chunk)), t.dtype) for t in spec.outputs]
        nan_rows = np.empty(count, np.bool_)
        found = self.call(
            self.structs.ctypes.data,
            self.stride,
            rows.ctypes.data,
            addresses(ins),
            addresses(outs),
            count,
            nan_rows.ctypes.data,
        )
        outputs = {t.name: np.moveaxis(a, 0, t.axis(BATCH) or 0) for t, a in zip(spec.outputs, outs, strict=True)}
        return outputs, nan_rows if found else None

    def read(self, slots: Array) -> dict[str, Array]:
        return {name: view[slots] for name, view in self.states.items()}

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        for name, view in self.states.items():
            view[slots] = states[name]
