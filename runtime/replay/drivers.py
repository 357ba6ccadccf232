"""Drivers of a closed loop: a pure step, a stream of an engine, streams of a pool."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rnn_export.contract.layout import Call, canonical_frames, graph_inputs
from rnn_export.contract.spec import StreamSpec
from rnn_export.platform.arrays import Array
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.stream import Stream

# Frames that streams of a pool are apart, and one more.
STAGGER = 3


class StepDriver:
    """A pure step: `call` takes inputs and states, and gives outputs and next states, as the graph names and lays them.

    It may give more than the contract has. `states` are (rows, ...); those not among them are the affair of `call`.
    """

    def __init__(
        self, spec: StreamSpec, call: Call, states: Mapping[str, Array], leaves_out_delay: bool = False
    ) -> None:
        self.leaves_out_delay = leaves_out_delay
        self._spec, self._call, self._states = spec, call, dict(states)
        self._ports = [s for s in spec.states if s.name in states]

    def step(self, inputs: dict[str, Array]) -> dict[str, Array]:
        fed = {s.input: self._states[s.name] for s in self._ports}
        given = self._call({**graph_inputs(self._spec, inputs), **fed})
        self._states = {s.name: given[s.output] for s in self._ports}
        return {t.name: canonical_frames(self._spec, t, given[t.name]) for t in self._spec.outputs}

    def states(self) -> dict[str, Array]:
        return self._states


class RunDriver:
    """A stream, fed by `run`: pieces of any length."""

    leaves_out_delay = True

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def step(self, inputs: dict[str, Array]) -> Mapping[str, Array | None]:
        return _by_name(self.stream.spec, self.stream.run(inputs))

    def states(self) -> dict[str, Array]:
        return self.stream.states


class FrameDriver(RunDriver):
    """A stream, fed by `step`: one chunk at a time."""

    def step(self, inputs: dict[str, Array]) -> Mapping[str, Array | None]:
        spec, alone = self.stream.spec, self.stream.batch == 1
        given = self.stream.step(only_value(as_frame(spec, inputs)))
        outputs = {} if given is None else _by_name(spec, given)
        return with_time(spec, {name: value[None] if alone else value for name, value in outputs.items()})


class PoolDriver:
    """As many streams of a pool as there are rows, in another order at each round, and not all at the same frame.

    All of `loop` is stepped at once, and told step by step.
    """

    leaves_out_delay = False

    def __init__(self, engine: Engine, loop: ClosedLoop) -> None:
        self._pool = engine.pool(loop.rows)
        self._ids = np.array([self._pool.open() for _ in range(loop.rows)])
        self._given = self._rounds(loop)

    def _rounds(self, loop: ClosedLoop) -> Iterator[dict[str, Array]]:
        """Outputs (rows, frames, ...) of each step; two of three streams begin a round or two after the others."""
        spec, pieces = self._pool.spec, [without_time(loop.spec, piece) for _, _, piece in loop.pieces()]
        late, found = np.arange(loop.rows) % STAGGER, [dict[str, Array]() for _ in pieces]
        for turn in range(len(pieces) + STAGGER - 1):
            at = turn - late
            order = np.roll(np.flatnonzero((at >= 0) & (at < len(pieces))), turn)
            frame = {name: np.stack([pieces[at[r]][name][r] for r in order]) for name in pieces[0]}
            given = _by_name(spec, self._pool.step(self._ids[order], only_value(frame)))
            for name, values in given.items():
                for row, value in zip(order, values, strict=True):
                    found[at[row]].setdefault(name, np.empty((loop.rows, *value.shape), value.dtype))[row] = value
        return iter(found)

    def step(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return with_time(self._pool.spec, next(self._given))

    def states(self) -> dict[str, Array]:
        rows = [self._pool.states(stream) for stream in self._ids]
        return {s.name: np.concatenate([states[s.name] for states in rows]) for s in self._pool.spec.states}


def without_time(spec: StreamSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """One chunk (rows, chunk, ...) as a step takes it: a chunk of one frame has no axis of time."""
    one = {t.name for t in spec.inputs if spec.timed(t) and t.frames_of(spec.chunk) == 1}
    return {t.name: inputs[t.name][:, 0] if t.name in one else inputs[t.name] for t in spec.inputs}


def as_frame(spec: StreamSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """One chunk (rows, chunk, ...) as `Stream.step` takes it: a single row has no axis of rows either."""
    return {name: a[0] if len(a) == 1 else a for name, a in without_time(spec, inputs).items()}


def with_time(spec: StreamSpec, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of one step as (rows, frames, ...): a single frame is given without an axis of time."""
    one = {t.name for t in spec.outputs if spec.timed(t) and t.frames_of(spec.chunk) == 1}
    return {name: value[:, None] if name in one else value for name, value in outputs.items()}


def only_value(named: Mapping[str, Any]) -> Any:
    """`named` in a caller's form: the only value itself, else the dict."""
    return named if len(named) > 1 else next(iter(named.values()))


def _by_name(spec: StreamSpec, given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {spec.outputs[0].name: given}
