"""The closed loop: frames in, states fed back, outputs and states out, on anything that can be stepped."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from rnn_export.arrays import Array
from rnn_export.spec import StreamSpec, TensorSpec

# Frames of NaN on each side of a piece.
FILLER = 2


class Driver(Protocol):
    """One stream, or several rows in lockstep, with its states in its own keeping.

    Attributes:
        leaves_out_delay: whether `step` leaves out the frames of the delay, as a stream does; a graph gives them, of
            no value.
    """

    leaves_out_delay: bool

    def step(self, inputs: dict[str, Array]) -> Mapping[str, Array | None]:
        """Feed inputs (rows, frames, ...) and give outputs (rows, frames, ...).

        A tensor without a time axis is (rows, ...); an output of that kind is None where no frame gave one yet.
        """

    def states(self) -> Mapping[str, Array]:
        """The states by name, (rows, ...)."""


@dataclass(frozen=True)
class Trace:
    """What a driver gave.

    Attributes:
        outputs: (rows, frames, ...), without the frames of the delay; (rows, ...) as of the last frame where an output
            has no time axis, and left out where no frame gave one.
        states: (rows, k, ...), as of after each of the k pieces that were asked for.
    """

    outputs: Mapping[str, Array]
    states: Mapping[str, Array]

    def of_rows(self, rows: slice) -> Trace:
        """What these rows gave."""
        return Trace(*({name: a[rows] for name, a in named.items()} for named in (self.outputs, self.states)))


@dataclass(frozen=True)
class ClosedLoop:
    """Inputs by name, (rows, frames, ...) or (rows, ...) without a time axis, to be fed to any driver in any pieces."""

    spec: StreamSpec
    inputs: Mapping[str, Array]

    @property
    def rows(self) -> int:
        return int(next(iter(self.inputs.values())).shape[0])

    @property
    def frames(self) -> int:
        return int(next(self.inputs[t.name].shape[1] for t in self.spec.inputs if self.spec.timed(t)))

    def of_rows(self, rows: slice | Array) -> ClosedLoop:
        """The same with these rows alone, in this order."""
        return replace(self, inputs={name: array[rows] for name, array in self.inputs.items()})

    def cut(self, start: int, stop: int) -> dict[str, Array]:
        """The frames from `start` to `stop`; an input without a time axis stays as it is."""
        inputs = ((t, self.inputs[t.name]) for t in self.spec.inputs)
        return {t.name: array[:, start:stop] if self.spec.timed(t) else array for t, array in inputs}

    def pieces(self, edges: Sequence[int] | None = None) -> Iterator[dict[str, Array]]:
        """The inputs between each edge and the next; every whole step where `edges` is None."""
        return (self.cut(start, stop) for start, stop in pairwise(self._edges(edges)))

    def steps(
        self, driver: Driver, edges: Sequence[int] | None = None, nan_filler: bool = False
    ) -> Iterator[tuple[int, dict[str, Array | None]]]:
        """Feed one piece after the other; gives the frame that each ends at, and its outputs without the delay.

        Args:
            driver: has been fed the frames before the first edge, and no others since its start.
            edges: the frames between which the pieces lie, in rising order; None for every whole step.
            nan_filler: each piece lies in a larger array of NaN, so that a read beyond its ends shows.
        """
        for (start, stop), piece in zip(pairwise(self._edges(edges)), self.pieces(edges), strict=True):
            outputs = driver.step(self._among_nan(piece) if nan_filler else piece)
            if driver.leaves_out_delay:
                yield stop, dict(outputs)
            else:
                yield stop, {t.name: self._valid(t, outputs[t.name], start, stop) for t in self.spec.outputs}

    def run(
        self,
        driver: Driver,
        edges: Sequence[int] | None = None,
        states_at: Collection[int] | None = None,
        nan_filler: bool = False,
    ) -> Trace:
        """The pieces of `steps` joined; `states_at` are the frames after which states are read, None for each edge."""
        outputs: dict[str, list[Array]] = {t.name: [] for t in self.spec.outputs}
        states: dict[str, list[Array]] = {}
        for stop, given in self.steps(driver, edges, nan_filler):
            for name, value in given.items():
                outputs[name] += [] if value is None else [value]
            if states_at is None or stop in states_at:
                for name, value in driver.states().items():
                    states.setdefault(name, []).append(value)
        timed = {t.name: self.spec.timed(t) for t in self.spec.outputs}
        return Trace(
            {name: np.concatenate(v, 1) if timed[name] else v[-1] for name, v in outputs.items() if v},
            {name: np.stack(values, 1) for name, values in states.items()},
        )

    def _edges(self, edges: Sequence[int] | None) -> Sequence[int]:
        return range(0, self.frames + 1, self.spec.chunk) if edges is None else edges

    def _valid(self, tensor: TensorSpec, value: Array | None, start: int, stop: int) -> Array | None:
        if value is None or self.spec.timed(tensor):
            return None if value is None else value[:, self.spec.valid(tensor, start, stop - start)]
        return None if self.spec.without_output(start, stop - start) else value

    def _among_nan(self, piece: Mapping[str, Array]) -> dict[str, Array]:
        return {t.name: _surrounded(piece[t.name]) if self.spec.timed(t) else piece[t.name] for t in self.spec.inputs}


def _surrounded(piece: Array) -> Array:
    if piece.dtype.kind != "f":
        return piece
    rows, frames, *frame = piece.shape
    room = np.full((rows, frames + 2 * FILLER, *frame), np.nan, piece.dtype)
    room[:, FILLER:-FILLER] = piece
    return room[:, FILLER:-FILLER]
