"""Many rows through a step of one row, or of another fixed number: piece by piece, with states on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rnn_export.contract.layout import canonical
from rnn_export.contract.spec import StreamSpec, TensorSpec, sized
from rnn_export.platform.arrays import Array
from rnn_export.runtime.protocols import (
    Session,
    StateStore,
    StreamBuffers,
    UndoingStore,
    empty_state,
    rows_with_nan,
)


class RowByRow(Session):
    """The session of one row, or of `rows_at_once`, as one of any number."""

    def __init__(self, session: Session, spec: StreamSpec) -> None:
        self.session, self.spec = session, spec
        self.device, self.precision = session.device, session.precision
        self.has_sequence, self.run_is_steps = session.has_sequence, session.run_is_steps
        self.survives_fork = session.survives_fork
        self.rows = session.rows_at_once or 1

    def piece(self) -> StreamBuffers:
        """Buffers of rows stepped at once."""
        return self.session.stream_buffers(self.rows)

    def stream_buffers(self, batch: int) -> StreamBuffers:
        return RowBuffers(self, batch)

    def state_store(self) -> StateStore:
        return RowStateStore(self)


class RowBuffers(StreamBuffers):
    """The buffers of several rows, which go through those of one in sequence."""

    def __init__(self, session: RowByRow, batch: int) -> None:
        self.spec, self.one, self.rows = session.spec, session.piece(), session.rows
        self.inputs = _buffers(self.spec.inputs, batch, self.spec.chunk) if self.one.inputs else {}
        self.outputs = _buffers(self.spec.outputs, batch, self.spec.chunk) if self.one.outputs else {}
        self.states = empty_state(self.spec, batch)

    def step(self) -> None:
        chunk = self.spec.chunk
        states = step_rows(self.spec, self.one, self.rows, self.inputs, self.outputs, self.states)
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
        self.spec, self.one, self.rows = session.spec, session.piece(), session.rows
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
        after = step_rows(self.spec, self.one, self.rows, inputs, outputs, before)
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
    size: int,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    states: Mapping[str, Array],
) -> dict[str, Array]:
    """The next states (n, ...) of n rows; `inputs` and `outputs`, which it fills, have the layout of the graph.

    `one` steps `size` rows. Where fewer are left, its others are the first of them again, and are not read.
    """
    fed = [(canonical(inputs[t.name], t), canonical(one.inputs[t.name], t)) for t in spec.inputs]
    given = [(canonical(outputs[t.name], t), canonical(one.outputs[t.name], t)) for t in spec.outputs]
    after = []
    rows = len(fed[0][0])
    for start in range(0, rows, size):
        piece, count = slice(start, start + size), min(size, rows - start)
        one.write({name: _filled(state[piece], size) for name, state in states.items()})
        for whole, part in fed:
            part[:count], part[count:] = whole[piece], whole[start]
        one.step()
        for whole, part in given:
            whole[piece] = part[:count]
        after.append({name: state[:count] for name, state in one.read().items()})
    return _joined(after)


def _filled(rows: Array, size: int) -> Array:
    """`rows`, with the first of them again in the place of those that are missing."""
    return rows if len(rows) == size else np.concatenate([rows, rows[:1].repeat(size - len(rows), 0)])


def _buffers(tensors: Sequence[TensorSpec], rows: int, chunk: int) -> dict[str, Array]:
    return {t.name: np.zeros(sized(t.shape, rows, chunk), t.dtype) for t in tensors}


def _row(arrays: Mapping[str, Array], row: int) -> dict[str, Array]:
    return {name: array[row : row + 1] for name, array in arrays.items()}


def _joined(rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
