"""Buffers on OpenVINO: one stream whose states are the infer request's own, or several rows with states outside."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.openvino.graph import ROWS, variable
from rnn_export.runtime.backends.openvino.library import cause, infer, ov
from rnn_export.runtime.backends.openvino.table_bounds import check_ids
from rnn_export.runtime.protocols import StreamBuffers
from rnn_export.runtime.protocols.counted_states import CountedBuffers


class StatefulBuffers(CountedBuffers):
    """One stream: an infer request of its own, and the arrays that it reads and writes."""

    def __init__(self, spec: StreamSpec, compiled: Any, tables: Mapping[str, int]) -> None:
        self.spec, self.tables = spec, tables
        self.inputs = {t.name: _array(t, 1, spec.chunk) for t in spec.inputs}
        self.outputs = {t.name: _array(t, 1, spec.chunk) for t in spec.outputs}
        self.request = _bound(compiled, [*self.inputs.values()], [*self.outputs.values()])
        found = {state.name: state for state in self.request.query_state()}
        self.states = {s.name: found[variable(s)] for s in spec.states}
        super().__init__(partial(infer, self.request, {}, True, False), spec.chunk)

    def step(self) -> None:
        check_ids(self.tables, self.inputs)
        try:
            self.turn()
        except RuntimeError as error:
            raise StreamError(f"openvino refused the frame: {cause(error)}", id="openvino-frame-refused") from error

    def read(self) -> dict[str, Array]:
        return {name: np.array(state.state.data) for name, state in self.states.items()}

    def write(self, states: Mapping[str, Array]) -> None:
        for name, state in self.states.items():
            state.state = ov.Tensor(np.array(states[name], order="C"))


class RowsBuffers(StreamBuffers):
    """`ROWS` streams in one step, whose states go in and come out."""

    def __init__(self, spec: StreamSpec, compiled: Any, tables: Mapping[str, int]) -> None:
        self.spec, self.tables = spec, tables
        self.inputs = {t.name: _array(t, ROWS, spec.chunk) for t in spec.inputs}
        self.outputs = {t.name: _array(t, ROWS, spec.chunk) for t in spec.outputs}
        self.before, self.after = ({s.name: _array(s, ROWS, 1) for s in spec.states} for _ in range(2))
        fed, given = [*self.inputs.values(), *self.before.values()], [*self.outputs.values(), *self.after.values()]
        self.request = _bound(compiled, fed, given)

    def step(self) -> None:
        check_ids(self.tables, self.inputs)
        try:
            infer(self.request, {}, True, False)
        except RuntimeError as error:
            raise StreamError(f"openvino refused the round: {cause(error)}", id="openvino-round-refused") from error
        self.write(self.after)
        self.frames += self.spec.chunk

    def read(self) -> dict[str, Array]:
        return {name: state.copy() for name, state in self.before.items()}

    def write(self, states: Mapping[str, Array]) -> None:
        for name, state in self.before.items():
            state[...] = states[name]


def _bound(compiled: Any, inputs: list[Array], outputs: list[Array]) -> Any:
    """An infer request that reads and writes these arrays, which are in the order of the graph."""
    request = compiled.create_infer_request()
    for number, array in enumerate(inputs):
        request.set_input_tensor(number, ov.Tensor(array, shared_memory=True))
    for number, array in enumerate(outputs):
        request.set_output_tensor(number, ov.Tensor(array, shared_memory=True))
    return request


def _array(tensor: TensorSpec | StateSpec, rows: int, frames: int) -> Array:
    return np.zeros(sized(tensor.shape, rows, frames), tensor.dtype)
