"""The states of many streams of ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnn_export.arrays import Array
from rnn_export.runtime.backends.host_rows import HostRows, turned_nan
from rnn_export.runtime.backends.onnxruntime.backend import OrtMemory, OrtSession, Pair, pair
from rnn_export.spec import BATCH, sized

# Rows of a piece of a round.
ROWS = 128
# Rounds from one look for NaN in the states to the next, which costs a twelfth of a round: a prime, so that no streams
# that take turns are passed over each time.
LOOK = 17


class OrtSlots:
    """A pool's states in host memory; a round runs in pieces, so that what one touches stays in a core's own cache.

    The states of the last round stay in its pieces until anyone asks: the next round, if it is the same, finds them
    there.
    """

    def __init__(self, session: OrtSession) -> None:
        self.session, self.spec = session, session.spec
        self.pool = HostRows(session.spec)
        self.whole: list[_Piece] = []
        # A round has one piece of fewer rows, so that these share memory for the states of `most`.
        self.rests: dict[int, _Piece] = {}
        self.most, self.shared = 0, pair(session.spec, 0)
        self.rounds = 0
        self.slots: Array | None = None
        self.round: list[tuple[slice, _Piece]] = []
        self.outputs: dict[str, Array] = {}

    @property
    def nbytes(self) -> int:
        pairs = (self.shared, *(piece.arrays for piece in self.whole))
        return self.pool.nbytes + sum(array.nbytes for pair in pairs for states in pair for array in states.values())

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        # The same array, as a pool gives it for the same round.
        if slots is not self.slots:
            self._settle()
            self._begin(slots)
        stepped = []
        try:
            for rows, piece in self.round:
                piece.take(inputs, rows)
                piece.step()
                stepped.append(piece)
                piece.give(self.outputs, rows)
            self.rounds += 1
            return self.outputs, turned_nan(self.spec, self.outputs, () if self.rounds % LOOK else self._states())
        except BaseException:
            for piece in stepped:
                piece.back()
            raise

    def _states(self) -> list[Array]:
        """Those of the last round."""
        pieces = [piece.states for _, piece in self.round]
        return [np.concatenate([states[s.name] for states in pieces]) for s in self.spec.states]

    def _begin(self, slots: Array) -> None:
        n = len(slots)
        for start in range(0, n, ROWS):
            rows = slice(start, min(start + ROWS, n))
            piece = self._piece(start // ROWS, rows.stop - start)
            self.pool.gather(slots[rows], piece.states)
            self.round.append((rows, piece))
        self.slots = slots
        self.outputs = {t.name: np.empty(sized(t.shape, n, self.spec.chunk), t.dtype) for t in self.spec.outputs}

    def _piece(self, number: int, n: int) -> _Piece:
        if n == ROWS:
            if number == len(self.whole):
                self.whole.append(_Piece(self.session, n, pair(self.spec, n)))
            return self.whole[number]
        if n > self.most:
            self.most = min(2 * n, ROWS)
            self.shared, self.rests = pair(self.spec, self.most), {}
        if n not in self.rests:
            one, other = ({name: array[:n] for name, array in states.items()} for states in self.shared)
            self.rests[n] = _Piece(self.session, n, (one, other))
        return self.rests[n]

    def _settle(self) -> None:
        """The states of the last round back to where they belong."""
        if self.slots is not None:
            for rows, piece in self.round:
                self.pool.write(self.slots[rows], piece.states)
        self.slots, self.round = None, []

    def grow(self, count: int) -> None:
        self.pool.grow(count)

    def read(self, slots: Array) -> dict[str, Array]:
        self._settle()
        return self.pool.read(slots)

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        self._settle()
        self.pool.write(slots, states)

    def release(self, slots: Array) -> None:
        pass


class _Piece(OrtMemory):
    """The memory of `n` rows, whose states are the arrays of either of two `arrays`."""

    what = "round"

    def __init__(self, session: OrtSession, n: int, arrays: Pair) -> None:
        super().__init__(session, n, arrays)
        self.arrays = arrays
        self.places = {t.name: _place(t.axis(BATCH)) for t in (*session.spec.inputs, *session.spec.outputs)}

    @property
    def states(self) -> dict[str, Array]:
        return self.arrays[self.now]

    def back(self) -> None:
        """As if the last step had not been."""
        self.now ^= 1

    def take(self, inputs: Mapping[str, Array], rows: slice) -> None:
        for name, buffer in self.inputs.items():
            buffer[...] = inputs[name][(*self.places[name], rows)]

    def give(self, outputs: Mapping[str, Array], rows: slice) -> None:
        for name, buffer in self.outputs.items():
            outputs[name][(*self.places[name], rows)] = buffer


def _place(axis: int | None) -> tuple[slice, ...]:
    """What comes before the batch in an index."""
    return (slice(None),) * (axis or 0)
