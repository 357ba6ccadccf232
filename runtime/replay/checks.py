"""Checks against golden vectors of every way a user may drive an engine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from rnn_export.runtime.core.frame_io import unfit
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.closed_loop import ClosedLoop, Trace
from rnn_export.runtime.replay.drift import Drift, ParityReport
from rnn_export.runtime.replay.drivers import FrameDriver, PoolDriver, RunDriver
from rnn_export.runtime.replay.ends import by_pool, by_stream, end_drifts
from rnn_export.runtime.replay.golden import Golden
from rnn_export.runtime.stream import Stream

# Streams of a pool that is checked, at least: more than C steps at once.
POOLED = 9
LAST = slice(-1, None)


def replay_golden(engine: Engine, golden: Golden, progress: Callable[[str], None] = lambda check: None) -> ParityReport:
    """Drive `engine` over the golden vectors and their trials with the state fed back, in every way a user may.

    Checks: every step; the whole in one run; random pieces out of an array of NaN; a reset in mid-stream; a snapshot
    moved to a new stream in mid-stream; each row alone; in a pool, in another order and at other frames; and sequences
    that end, of a stream and of a pool. A model of whole sequences only: the whole, and each row alone. Every step and
    the whole are of all golden vectors, the others of those that a bundle keeps.
    """
    ordinary, *trials = golden.parts(engine)
    beginning = ordinary.beginning(engine.spec)
    drifts: list[Drift] = []
    checks = WHOLE_SEQUENCES if engine.spec.sequence_only else {**STREAMS, **(ENDS if golden.ends else {})}
    for name, check in checks.items():
        progress(name)
        for vectors in (ordinary if name in ALL_STEPS else beginning, *trials):
            drifts += check(_Check(name, engine, vectors))
    counts, not_judged = (ordinary.frames, ordinary.rows), golden.not_judged(engine.precision)
    tolerance, steps = ordinary.tolerance, ordinary.steps(engine.spec)
    return ParityReport(engine.backend, engine.device, *counts, tolerance, tuple(drifts), not_judged, steps)


@dataclass(frozen=True)
class _Check:
    """One check: an engine and its golden vectors."""

    name: str
    engine: Engine
    golden: Golden

    @property
    def loop(self) -> ClosedLoop:
        return ClosedLoop(self.engine.spec, self.golden.inputs)

    @property
    def half(self) -> int:
        """Frames of the first half, in whole steps; one step at least."""
        chunk = self.engine.spec.chunk
        return max(self.golden.frames // 2 // chunk, 1) * chunk

    def stream(self) -> Stream:
        return self.engine.stream(batch=self.golden.rows)

    def outputs(self, trace: Trace, start: int = 0, stop: int | None = None) -> Iterator[Drift]:
        return self.golden.output_drifts(self.name, self.engine.spec, trace.outputs, start, stop)

    def everything(self, trace: Trace, start: int = 0) -> Iterator[Drift]:
        """Outputs from `start` on, and the states at the end."""
        yield from self.outputs(trace, start)
        yield from self.golden.state_drifts(self.name, self.engine.spec, trace.states, LAST)


def _step(check: _Check) -> Iterator[Drift]:
    trace = check.loop.run(FrameDriver(check.stream()), states_at=set(check.golden.at.tolist()))
    yield from check.golden.state_drifts(check.name, check.engine.spec, trace.states)
    yield from check.outputs(trace)


def _sequence(check: _Check) -> Iterator[Drift]:
    return check.everything(check.loop.run(RunDriver(check.stream()), (0, check.golden.frames)))


def _chunked(check: _Check) -> Iterator[Drift]:
    """Pieces of any length, in an array of NaN so that a read beyond the ends of one shows."""
    random, frames, edges = np.random.default_rng(0), check.golden.frames, [0]
    while edges[-1] < frames:
        edges.append(min(edges[-1] + int(random.integers(1, 2 + frames // 4)), frames))
    trace = check.loop.run(RunDriver(check.stream()), edges, states_at=(frames,), nan_filler=True)
    return check.everything(trace)


def _reset(check: _Check) -> Iterator[Drift]:
    driver, first_half = RunDriver(check.stream()), (0, check.half)
    check.loop.run(driver, first_half)
    driver.stream.reset()
    return check.outputs(check.loop.run(driver, first_half), stop=check.half)


def _snapshot(check: _Check) -> Iterator[Drift]:
    half, frames = check.half, check.golden.frames
    if half >= frames:
        return
    first, second = RunDriver(check.stream()), RunDriver(check.stream())
    check.loop.run(first, (0, half))
    start = second.stream.states
    if not any(unfit(state, start[name]).any() for name, state in first.stream.states.items()):
        second.stream.restore(first.stream.snapshot())
    else:
        # No stream goes on from NaN or Inf; what comes after it is compared all the same.
        second = first
    yield from check.everything(check.loop.run(second, (half, frames)), start=half)


def _batch_invariance(check: _Check) -> Iterator[Drift]:
    golden, spec = check.golden, check.engine.spec
    for row in range(golden.rows if golden.rows > 1 and check.engine.batches[0] == 1 else 0):
        alone = slice(row, row + 1)
        trace = check.loop.of_rows(alone).run(RunDriver(check.engine.stream()), (0, golden.frames), states_at=())
        yield from golden.of_rows(alone).output_drifts(check.name, spec, trace.outputs)


def _pool(check: _Check) -> Iterator[Drift]:
    rows, frames = check.golden.rows, check.golden.frames
    copies = -(-POOLED // rows)
    loop = check.loop.of_rows(np.tile(np.arange(rows), copies))
    trace = loop.run(PoolDriver(check.engine, loop), states_at=(frames,))
    for first in range(0, copies * rows, rows):
        yield from check.everything(trace.of_rows(slice(first, first + rows)))


def _end(check: _Check) -> Iterator[Drift]:
    return end_drifts(check.name, check.engine, check.golden, by_stream)


def _pool_end(check: _Check) -> Iterator[Drift]:
    return end_drifts(check.name, check.engine, check.golden, by_pool)


ALL_STEPS = ("step", "sequence")
WHOLE_SEQUENCES = {"sequence": _sequence, "batch-invariance": _batch_invariance}
STREAMS = {"step": _step, "sequence": _sequence, "chunked": _chunked, "reset": _reset, "snapshot": _snapshot}
STREAMS |= {"batch-invariance": _batch_invariance, "pool": _pool}
# Of models whose sequences have an end of their own.
ENDS = {"end": _end, "pool end": _pool_end}
