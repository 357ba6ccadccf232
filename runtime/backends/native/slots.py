"""The states of a pool's streams in structs of the step's own, any of them stepped in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import BackendUnavailable
from rnn_export.runtime.backends.native.session import LINE, check_indices, row_shape, state_view
from rnn_export.spec import BATCH

if TYPE_CHECKING:
    from rnn_export.runtime.backends.native.session import NativeSession

# Bytes that the address of a struct is a multiple of.
ALIGNED = 16
_size, _address = ctypes.c_size_t, ctypes.c_void_p


class NativeSlots:
    """The structs one after the other, in memory that `grow` replaces."""

    def __init__(self, session: NativeSession) -> None:
        self.session, self.spec = session, session.spec
        try:
            self.call = session.call.rnn_pool
        except AttributeError as error:
            raise BackendUnavailable(
                "native.so was compiled by an rnn-export that did not step many streams at once. Build it here: "
                f"rnn-export build NAME.rnnx --target c --precision {session.precision} --rebuild."
            ) from error
        self.call.restype = _size
        self.call.argtypes = (_address, _size, _address, _address, _address, _size, _address)
        self.stride = max(1, -(-int(session.call.rnn_state_bytes()) // ALIGNED)) * ALIGNED
        # The last struct is no slot's but a stream at the start.
        self.structs = self._room(1)
        session.call.rnn_init(
            self.structs.ctypes.data, None if session.weights is None else session.weights.ctypes.data
        )
        self.grow(0)

    @property
    def nbytes(self) -> int:
        return self.structs.nbytes

    def grow(self, count: int) -> None:
        before, structs = self.structs, self._room(count + 1)
        there = min(len(before) - 1, count)
        structs[:there] = before[:there]
        structs[there:] = before[-1]
        self.structs = structs
        offset = self.session.call.rnn_state_offset
        self.states = {
            s.name: state_view(structs, int(offset(i)), self.stride, (count, *s.row), np.dtype(s.dtype))
            for i, s in enumerate(self.spec.states)
        }

    def _room(self, count: int) -> Array:
        room = np.empty(count * self.stride + LINE, np.uint8)
        start = -room.ctypes.data % LINE
        return room[start : start + count * self.stride].reshape(count, self.stride)

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        """As `Slots` has it; raises StreamError where an index is beyond its table."""
        check_indices(self.session.rows, "frame", inputs)
        count, spec = len(slots), self.spec
        places = np.ascontiguousarray(slots, np.int64)
        ins = [np.ascontiguousarray(np.moveaxis(inputs[t.name], t.axis(BATCH) or 0, 0)) for t in spec.inputs]
        outs = [np.empty((count, *row_shape(t, spec.chunk)), t.dtype) for t in spec.outputs]
        bad = np.empty(count, np.bool_)
        found = self.call(
            self.structs.ctypes.data,
            self.stride,
            places.ctypes.data,
            (_address * len(ins))(*(a.ctypes.data for a in ins)),
            (_address * len(outs))(*(a.ctypes.data for a in outs)),
            count,
            bad.ctypes.data,
        )
        given = {t.name: np.moveaxis(a, 0, t.axis(BATCH) or 0) for t, a in zip(spec.outputs, outs, strict=True)}
        return given, bad if found else None

    def read(self, slots: Array) -> dict[str, Array]:
        return {name: view[slots] for name, view in self.states.items()}

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        for name, view in self.states.items():
            view[slots] = states[name]

    def release(self, slots: Array) -> None:
        """Memory is all there is."""
