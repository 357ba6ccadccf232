"""The buffers of streams and pools on ONNX Runtime: bound once, the states swapped between two sets at each step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_export.contract.layout import canonical, graph_layout
from rnn_export.contract.spec import BATCH, StreamSpec, TensorSpec, sized
from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array, has_nan
from rnn_export.runtime.backends.onnxruntime.library import RUN_ERRORS, ort
from rnn_export.runtime.protocols import StateStore, StreamBuffers, empty_state, rows_with_nan

# Two sets of states by name.
StatePair = tuple[dict[str, Array], dict[str, Array]]
# The most rows of a piece of a round.
ROWS = 128
# In every so many rounds the states are searched for NaN, which costs a twelfth of a round: a prime, so that no streams
# that take turns are left out each time.
NAN_SEARCH_EVERY = 17


@dataclass(frozen=True)
class Graphs:
    """The loaded graphs of a contract: an InferenceSession of the step, of the sequence, or of both."""

    spec: StreamSpec
    step: Any
    sequence: Any
    device: str


class OrtBuffers(StreamBuffers):
    """Bound buffers of one stream: even steps read the first set of states and write the second, odd ones reverse."""

    unit = "frame"

    def __init__(self, graphs: Graphs, batch: int, sets: StatePair | None = None) -> None:
        self.graphs, self.spec, self.chunk = graphs, graphs.spec, graphs.spec.chunk
        self.now = 0
        self.sets: tuple[dict[str, Any], ...] = ({}, {})
        self.inputs: dict[str, Array] = {}
        self.outputs: dict[str, Array] = {}
        if graphs.step is not None:
            self._bind_step(graphs.step, batch, sets or state_pair(self.spec, batch))

    def _bind_step(self, step: Any, batch: int, sets: StatePair) -> None:
        self.inputs = {t.name: _buffer(t, batch, self.spec.chunk) for t in self.spec.inputs}
        self.outputs = {t.name: _buffer(t, batch, self.spec.chunk) for t in self.spec.outputs}
        device, _, number = self.graphs.device.partition(":")
        # On the CPU an OrtValue shares the array's memory.
        value_of, where = ort.OrtValue.ortvalue_from_numpy, (device, int(number or 0))
        self.sets = tuple({name: value_of(a, *where) for name, a in states.items()} for states in sets)
        self.bindings = tuple(self.bind(step, self.sets[i], self.sets[1 - i]) for i in range(2))
        self.run_step, self.prepared = _direct(step, self.bindings)

    def bind(self, step: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
        binding = step.io_binding()
        for name, array in self.inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in self.outputs.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        self.bind_states(binding, before, after)
        return binding

    def bind_states(self, binding: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        for state in self.spec.states:
            binding.bind_ortvalue_input(state.input, before[state.name])
            binding.bind_ortvalue_output(state.output, after[state.name])

    def step(self) -> None:
        try:
            self.run_step(self.prepared[self.now], None)
        except RUN_ERRORS as error:
            raise StreamError(f"onnxruntime refused the {self.unit}: {error}", id="onnxruntime-step-refused") from error
        self.now ^= 1
        self.frames += self.chunk

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        binding = self.graphs.sequence.io_binding()
        # The binding does not keep what it reads.
        arrays = {t.name: graph_layout(inputs[t.name], t) for t in self.spec.inputs}
        for name, array in arrays.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for tensor in self.spec.outputs:
            binding.bind_output(tensor.name, "cpu")
        self.bind_states(binding, self.sets[self.now], self.sets[1 - self.now])
        try:
            self.graphs.sequence.run_with_iobinding(binding)
        except RUN_ERRORS as error:
            raise StreamError(
                f"onnxruntime refused the sequence: {error}", id="onnxruntime-sequence-refused"
            ) from error
        self.now ^= 1
        results = zip(self.spec.outputs, binding.copy_outputs_to_cpu(), strict=False)
        return {tensor.name: canonical(array, tensor) for tensor, array in results}

    def read(self) -> dict[str, Array]:
        return {name: np.array(value.numpy()) for name, value in self.sets[self.now].items()}

    def write(self, states: Mapping[str, Array]) -> None:
        for name, value in self.sets[self.now].items():
            value.update_inplace(np.ascontiguousarray(states[name]))


class _Piece(OrtBuffers):
    """The buffers of `n` rows, whose states are the arrays of either of `pair`."""

    unit = "round"

    def __init__(self, graphs: Graphs, n: int, pair: StatePair) -> None:
        super().__init__(graphs, n, pair)
        self.pair = pair
        # What comes before the batch in an index.
        self.before = {t.name: (slice(None),) * (t.axis(BATCH) or 0) for t in (*self.spec.inputs, *self.spec.outputs)}

    @property
    def states(self) -> dict[str, Array]:
        return self.pair[self.now]


class _Turn:
    """A piece in one round, whose rows it steps."""

    def __init__(self, piece: _Piece, rows: slice, outputs: Mapping[str, Array]) -> None:
        self.piece, self.rows = piece, rows
        self.takes = [(a, name, (*piece.before[name], rows)) for name, a in piece.inputs.items()]
        self.gives = [(outputs[name][(*piece.before[name], rows)], a) for name, a in piece.outputs.items()]

    def step(self, inputs: Mapping[str, Array]) -> None:
        for buffer, name, at in self.takes:
            buffer[...] = inputs[name][at]
        self.piece.step()
        for rows, buffer in self.gives:
            rows[...] = buffer


class OrtStateStore(StateStore):
    """A pool's states in host memory; a round runs in pieces, so that what one touches stays in a core's own cache.

    The states of the last round stay in its pieces until anyone asks: the same round again finds them there.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.graphs, self.spec = graphs, graphs.spec
        # Every state of every slot, (slots, ...) by name.
        self.states = empty_state(graphs.spec, 0)
        self.full_pieces: list[_Piece] = []
        # A round has one piece of fewer rows, so that these, by their rows, share memory for the states of `most`.
        self.last_pieces: dict[int, _Piece] = {}
        self.most, self.shared = 0, state_pair(graphs.spec, 0)
        # The last round: its slots, its pieces, and its outputs.
        self.slots: Array | None = None
        self.round: list[_Turn] = []
        # Which set of states each piece had before the round that is under way.
        self.before: list[int] | None = None
        self.outputs: dict[str, Array] = {}

    @property
    def nbytes(self) -> int:
        pairs = (self.shared, *(piece.pair for piece in self.full_pieces))
        groups = (self.states, *(states for pair in pairs for states in pair))
        return sum(array.nbytes for states in groups for array in states.values())

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        # The same array, as a pool gives it for the same round.
        if slots is not self.slots:
            self._flush()
            self._begin(slots)
        self.before = [turn.piece.now for turn in self.round]
        try:
            for turn in self.round:
                turn.step(inputs)
            searched = () if (self.rounds + 1) % NAN_SEARCH_EVERY else self._last_states()
            nan_rows = rows_with_nan(self.spec, self.outputs, searched)
        except BaseException:
            self.finish()
            raise
        self.rounds += 1
        self.before = None
        return self.outputs, nan_rows

    def finish(self) -> None:
        if self.before is not None:
            for turn, now in zip(self.round, self.before, strict=True):
                turn.piece.now = now
            self.before = None

    def _last_states(self) -> list[Array]:
        """The next states of the last round, each (n, ...), by the contract; none where no value is NaN."""
        pieces = [turn.piece.states for turn in self.round]
        found = any(has_nan(array) for states in pieces for array in states.values())
        return [np.concatenate([states[s.name] for states in pieces]) for s in self.spec.states] if found else []

    def _begin(self, slots: Array) -> None:
        n, turns = len(slots), []
        outputs = {t.name: np.empty(sized(t.shape, n, self.spec.chunk), t.dtype) for t in self.spec.outputs}
        for start in range(0, n, ROWS):
            rows = slice(start, min(start + ROWS, n))
            piece = self._piece(start // ROWS, rows.stop - start)
            for name, array in self.states.items():
                # Clipping nothing, and without it numpy goes through a buffer.
                array.take(slots[rows], 0, piece.states[name], "clip")
            turns.append(_Turn(piece, rows, outputs))
        self.slots, self.round, self.outputs = slots, turns, outputs

    def _piece(self, number: int, n: int) -> _Piece:
        if n == ROWS:
            if number == len(self.full_pieces):
                self.full_pieces.append(_Piece(self.graphs, n, state_pair(self.spec, n)))
            return self.full_pieces[number]
        if n > self.most:
            self.most = min(2 * n, ROWS)
            self.shared, self.last_pieces = state_pair(self.spec, self.most), {}
        if n not in self.last_pieces:
            one, other = ({name: array[:n] for name, array in states.items()} for states in self.shared)
            self.last_pieces[n] = _Piece(self.graphs, n, (one, other))
        return self.last_pieces[n]

    def _flush(self) -> None:
        """The states of the last round back to where they belong."""
        if self.slots is not None:
            for turn in self.round:
                self._put(self.slots[turn.rows], turn.piece.states)
        self.slots, self.round = None, []

    def grow(self, count: int) -> None:
        for name, before in self.states.items():
            after = np.empty((count, *before.shape[1:]), before.dtype)
            after[: len(before)] = before
            self.states[name] = after

    def read(self, slots: Array) -> dict[str, Array]:
        self._flush()
        return {name: array[slots] for name, array in self.states.items()}

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        self._flush()
        self._put(slots, states)

    def _put(self, slots: Array, states: Mapping[str, Array]) -> None:
        for name, array in self.states.items():
            array[slots] = states[name]


def state_pair(spec: StreamSpec, batch: int) -> StatePair:
    return empty_state(spec, batch), empty_state(spec, batch)


def _direct(session: Any, bindings: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """A bound run without the layer of Python around it, where this onnxruntime has it inside."""
    try:
        return session._sess.run_with_iobinding, tuple(binding._iobinding for binding in bindings)
    except AttributeError:
        return session.run_with_iobinding, bindings


def _buffer(tensor: TensorSpec, batch: int, chunk: int) -> Array:
    return np.zeros(sized(tensor.shape, batch, chunk), tensor.dtype)
