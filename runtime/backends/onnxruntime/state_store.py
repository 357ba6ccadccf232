"""The states of many streams of ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnn_export.arrays import Array
from rnn_export.runtime.backends.api import StateStore, empty_state, rows_with_nan
from rnn_export.runtime.backends.onnxruntime.buffers import Graphs, OrtBuffers, StatePair, state_pair
from rnn_export.spec import BATCH, StreamSpec, sized

# The most rows of a piece of a round.
ROWS = 128
# In every so many rounds the states are searched for NaN, which costs a twelfth of a round: a prime, so that no streams
# that take turns are left out each time.
NAN_SEARCH_EVERY = 17


class OrtStateStore(StateStore):
    """A pool's states in host memory; a round runs in pieces, so that what one touches stays in a core's own cache.

    The states of the last round stay in its pieces until anyone asks: the next round, if it is the same, finds them
    there.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.graphs, self.spec = graphs, graphs.spec
        self.states = _HostStates(graphs.spec)
        self.full_pieces: list[_Piece] = []
        # A round has one piece of fewer rows, so that these, by their rows, share memory for the states of `most`.
        self.last_pieces: dict[int, _Piece] = {}
        self.most, self.shared = 0, state_pair(graphs.spec, 0)
        self.rounds = 0
        # The last round: its slots, its pieces with their rows, and its outputs.
        self.slots: Array | None = None
        self.round: list[tuple[slice, _Piece]] = []
        self.outputs: dict[str, Array] = {}

    @property
    def nbytes(self) -> int:
        pairs = (self.shared, *(piece.pair for piece in self.full_pieces))
        return self.states.nbytes + sum(array.nbytes for pair in pairs for states in pair for array in states.values())

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        # The same array, as a pool gives it for the same round.
        if slots is not self.slots:
            self._flush()
            self._begin(slots)
        stepped = []
        try:
            for rows, piece in self.round:
                piece.take(inputs, rows)
                piece.step()
                stepped.append(piece)
                piece.give(self.outputs, rows)
            self.rounds += 1
            searched = () if self.rounds % NAN_SEARCH_EVERY else self._last_states()
            return self.outputs, rows_with_nan(self.spec, self.outputs, searched)
        except BaseException:
            for piece in stepped:
                piece.now ^= 1  # As if its step had not been.
            raise

    def _last_states(self) -> list[Array]:
        """The next states of the last round, each (n, ...), in the order of the contract."""
        pieces = [piece.states for _, piece in self.round]
        return [np.concatenate([states[s.name] for states in pieces]) for s in self.spec.states]

    def _begin(self, slots: Array) -> None:
        n = len(slots)
        for start in range(0, n, ROWS):
            rows = slice(start, min(start + ROWS, n))
            piece = self._piece(start // ROWS, rows.stop - start)
            self.states.gather(slots[rows], piece.states)
            self.round.append((rows, piece))
        self.slots = slots
        self.outputs = {t.name: np.empty(sized(t.shape, n, self.spec.chunk), t.dtype) for t in self.spec.outputs}

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
            for rows, piece in self.round:
                self.states.write(self.slots[rows], piece.states)
        self.slots, self.round = None, []

    def grow(self, count: int) -> None:
        self.states.grow(count)

    def read(self, slots: Array) -> dict[str, Array]:
        self._flush()
        return self.states.read(slots)

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        self._flush()
        self.states.write(slots, states)


class _HostStates:
    """Every state of every slot, one array (slots, ...) by name."""

    def __init__(self, spec: StreamSpec) -> None:
        self.arrays = empty_state(spec, 0)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def grow(self, count: int) -> None:
        for name, before in self.arrays.items():
            after = np.empty((count, *before.shape[1:]), before.dtype)
            after[: len(before)] = before
            self.arrays[name] = after

    def gather(self, slots: Array, rows: Mapping[str, Array]) -> None:
        """The states of `slots` into `rows`, each (n, ...)."""
        for name, array in self.arrays.items():
            # Clipping nothing, and without it numpy goes through a buffer.
            array.take(slots, 0, rows[name], "clip")

    def read(self, slots: Array) -> dict[str, Array]:
        return {name: array[slots] for name, array in self.arrays.items()}

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        for name, array in self.arrays.items():
            array[slots] = states[name]


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

    def take(self, inputs: Mapping[str, Array], rows: slice) -> None:
        for name, buffer in self.inputs.items():
            buffer[...] = inputs[name][(*self.before[name], rows)]

    def give(self, outputs: Mapping[str, Array], rows: slice) -> None:
        for name, buffer in self.outputs.items():
            outputs[name][(*self.before[name], rows)] = buffer
