"""A compiled step as a session: streams and pools of it, and the compiled base class of its streams."""

from __future__ import annotations

from typing import Any

from rnn_export.arrays import Array
from rnn_export.runtime.backends.api import Session
from rnn_export.runtime.backends.native.buffers import NativeBuffers
from rnn_export.runtime.backends.native.state_store import NativeStateStore
from rnn_export.runtime.backends.native.step import CompiledStep

# The most axes of a frame that the stepper takes.
AXES = 8


class NativeSession(Session):
    """The compiled step with its weights; `stepper` is None where it is called through ctypes."""

    device = "cpu"
    has_sequence = run_is_steps = True

    def __init__(self, compiled: CompiledStep, stepper: type | None) -> None:
        self.compiled, self.spec, self.precision = compiled, compiled.spec, compiled.precision
        self.stepper = stepper

    def stream_buffers(self, batch: int) -> NativeBuffers:
        return NativeBuffers(self.compiled, batch)

    def state_store(self) -> NativeStateStore:
        """Raises BackendUnavailable where the library is of before there were any."""
        return NativeStateStore(self.compiled)

    def bind(self, stream: Any, buffers: NativeBuffers, x: Array | None, y: Array | None) -> None:
        if x is None or y is None or not all(a.flags.c_contiguous and a.ndim <= AXES for a in (x, y)):
            x = y = None
        inputs, outputs = tuple(buffers.inputs.values()), tuple(buffers.outputs.values())
        table_rows = self.compiled.table_rows
        ids = table_rows.get(self.spec.inputs[0].name, 0)
        stream._bind(buffers, buffers.place, self.spec.chunk, inputs, outputs, x, y, ids)
        if table_rows:
            stream._advance = buffers.step
