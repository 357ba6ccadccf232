"""The closed loop: frames in, states fed back, outputs and states out, on anything that can be stepped."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from rnn_export.contract.layout import cut
from rnn_export.contract.spec import StreamSpec
from rnn_export.platform.arrays import Array
from rnn_export.runtime.core.frame_io import without_delay

Outputs = Mapping[str, Array | None]

# Frames of NaN on each side of a piece.
FILLER = 2


class Driver(Protocol):
    """One stream, or several rows in lockstep, that keeps its own states."""

    # Whether `step` leaves out the frames of the delay, as a stream does; a graph gives them, of no value.
    leaves_out_delay: bool

    def step(self, inputs: dict[str, Array]) -> Outputs:
        """Feed inputs (rows, frames, ...) and give outputs (rows, frames, ...).

        A tensor without a time axis is (rows, ...). An output is None, or left out, where no frame gave one yet.
        """

    def states(self) -> Mapping[str, Array]:
        """The states by name, (rows, ...)."""


@dataclass(frozen=True)
class Trace:
    """The results of a driver: states (rows, k, ...) after each of k pieces, and outputs without the delay.

    Outputs are (rows, frames, ...), or (rows, ...) as of the last where there is no time axis; None is left out.
    """

    outputs: Mapping[str, Array]
    states: Mapping[str, Array]

    def of_rows(self, rows: slice) -> Trace:
        """Results of `rows`."""
        return Trace(*({name: a[rows] for name, a in named.items()} for named in (self.outputs, self.states)))


@dataclass(frozen=True)
class ClosedLoop:
    """Inputs by name, (rows, frames, ...) or (rows, ...) without a time axis, to be fed to any driver in any pieces.

    Frames are those of the sequence, for each of which an input may have several of its own.
    """

    spec: StreamSpec
    inputs: Mapping[str, Array]

    @property
    def rows(self) -> int:
        return int(next(iter(self.inputs.values())).shape[0])

    @property
    def frames(self) -> int:
        tensor = next(t for t in self.spec.inputs if self.spec.timed(t))
        return int(self.inputs[tensor.name].shape[1]) // tensor.rate.numerator

    def of_rows(self, rows: slice | Array) -> ClosedLoop:
        """The same with these rows alone, in this order."""
        return replace(self, inputs={name: array[rows] for name, array in self.inputs.items()})

    def cut(self, start: int, stop: int) -> dict[str, Array]:
        """The inputs for the frames from `start` to `stop`; an input without a time axis stays as it is."""
        return cut(self.spec, self.inputs, start, stop)

    def pieces(self, edges: Sequence[int] | None = None) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """Each edge and the next, and the inputs between them; every whole step where `edges` is None."""
        edges = range(0, self.frames + 1, self.spec.chunk) if edges is None else edges
        return ((start, stop, self.cut(start, stop)) for start, stop in pairwise(edges))

    def steps(
        self, driver: Driver, edges: Sequence[int] | None = None, nan_filler: bool = False
    ) -> Iterator[tuple[int, Outputs]]:
        """Feed a piece between each two `edges`, None for every whole step; gives where it ends, and its outputs.

        `driver` was fed the frames before the first edge and no others. With `nan_filler` a piece lies in a larger
        array of NaN, so that a read beyond its ends shows. The outputs are without the delay.
        """
        for start, stop, piece in self.pieces(edges):
            outputs = driver.step(self._among_nan(piece) if nan_filler else piece)
            leave = driver.leaves_out_delay
            yield stop, outputs if leave else without_delay(self.spec, outputs, start, stop - start)

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

    def _among_nan(self, piece: dict[str, Array]) -> dict[str, Array]:
        for tensor in self.spec.inputs:
            frames = piece[tensor.name]
            if self.spec.timed(tensor) and frames.dtype.kind == "f":
                around = [(0, 0), (FILLER, FILLER), *[(0, 0)] * (frames.ndim - 2)]
                piece[tensor.name] = np.pad(frames, around, constant_values=np.nan)[:, FILLER:-FILLER]
        return piece
