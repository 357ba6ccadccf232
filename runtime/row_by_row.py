"""Many rows of a model that takes one at a time: the same step for each, its states on the host in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rnn_export.arrays import Array
from rnn_export.layout import canonical
from rnn_export.runtime.backends.api import (
    Session,
    StateStore,
    StreamBuffers,
    UndoingStore,
    empty_state,
    rows_with_nan,
)
from rnn_export.spec import StreamSpec, TensorSpec, sized


class RowByRow(Session):
    """The session of one row as one of any number."""

    def __init__(self, session: Session, spec: StreamSpec) -> None:
        self.session, self.spec = session, spec
        self.device, self.precision = session.device, session.precision
        self.has_sequence, self.run_is_steps = session.has_sequence, session.run_is_steps
        self.survives_fork = session.survives_fork

    def stream_buffers(self, batch: int) -> StreamBuffers:
        return RowBuffers(self, batch)

    def state_store(self) -> StateStore:
        return RowStateStore(self)


class RowBuffers(StreamBuffers):
    """The buffers of several rows, which go through those of one after the other."""

    def __init__(self, session: RowByRow, batch: int) -> None:
        self.spec, self.one = session.spec, session.session.stream_buffers(1)
        self.inputs = _buffers(self.spec.inputs, batch, self.spec.chunk) if self.one.inputs else {}
        self.outputs = _buffers(self.spec.outputs, batch, self.spec.chunk) if self.one.outputs else {}
        self.states = empty_state(self.spec, batch)

    def step(self) -> None:
        states, chunk = step_rows(self.spec, self.one, self.inputs, self.outputs, self.states), self.spec.chunk
        # No call stands between the two, so no interrupt does.
        self.states = states
        self.frames += chunk

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        rows, given, after = len(next(iter(inputs.values()))), [], []
        for row in range(rows):
            self.one.write(_row(self.states, row))
            given.append({name: a.copy() for name, a in self.one.run(_row(inputs, row)).items()})
            after.append(self.one.read())
        results = _joined(given)
        self.states = _joined(after)
        return results

    def read(self) -> dict[str, Array]:
        return {name: state.copy() for name, state in self.states.items()}

    def write(self, states: Mapping[str, Array]) -> None:
        self.states = {name: np.array(states[name], order="C") for name in self.states}

    def after_fork(self) -> None:
        self.one.after_fork()


class RowStateStore(UndoingStore):
    """The states of a pool's streams as arrays (slots, ...)."""

    def __init__(self, session: RowByRow) -> None:
        self.spec, self.one = session.spec, session.session.stream_buffers(1)
        self.states = empty_state(self.spec, 0)

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.states.values())

    def grow(self, count: int) -> None:
        grown = empty_state(self.spec, count)
        for name, state in self.states.items():
            grown[name][: len(state)] = state[:count]
        self.states = grown

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        outputs = _buffers(self.spec.outputs, len(slots), self.spec.chunk)
        before = self.read(slots)
        after = step_rows(self.spec, self.one, inputs, outputs, before)
        nan_rows = rows_with_nan(self.spec, outputs, after.values())
        self.keep(slots, before, after)
        return outputs, nan_rows

    def read(self, slots: Array) -> dict[str, Array]:
        return {name: state[slots] for name, state in self.states.items()}

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        for name, state in self.states.items():
            state[slots] = states[name]

    def put(self, rows: Array, states: Mapping[str, Array]) -> None:
        self.write(rows, states)

    def after_fork(self) -> None:
        self.one.after_fork()


def step_rows(
    spec: StreamSpec,
    one: StreamBuffers,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    states: Mapping[str, Array],
) -> dict[str, Array]:
    """The next states (n, ...) of n rows; `inputs` and `outputs`, which it fills, have the layout of the graph."""
    fed = [(canonical(inputs[t.name], t), canonical(one.inputs[t.name], t)) for t in spec.inputs]
    given = [(canonical(outputs[t.name], t), canonical(one.outputs[t.name], t)) for t in spec.outputs]
    after = []
    for row in range(len(fed[0][0])):
        one.write(_row(states, row))
        for whole, part in fed:
            part[0] = whole[row]
        one.step()
        for whole, part in given:
            whole[row] = part[0]
        after.append(one.read())
    return _joined(after)


def _buffers(tensors: Sequence[TensorSpec], rows: int, chunk: int) -> dict[str, Array]:
    return {t.name: np.zeros(sized(t.shape, rows, chunk), t.dtype) for t in tensors}


def _row(arrays: Mapping[str, Array], row: int) -> dict[str, Array]:
    return {name: array[row : row + 1] for name, array in arrays.items()}


def _joined(rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
