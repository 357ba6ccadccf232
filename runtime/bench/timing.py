"""Timing of calls that may take less than the clock: in turn, in short blocks, the clock's own time taken off.

A call that takes five times the clock or more is timed on its own. Of shorter ones a sample is the mean of a few calls
in a row (`Stopwatch.group`), so that the clock is at most a tenth of it; their percentiles are those of such means.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_export.platform.arrays import Array

PERCENTILES = (50, 90, 99)
ROUNDS = 50
# What one subject may keep of a run; more changes no percentile.
SAMPLES = 100_000
# Calls at the start of a block, untimed: others have had the caches since its last one.
WARM = 16
EMPTIES = 64
PILOT_NS = 20_000_000


@dataclass(frozen=True)
class Subject:
    """`step(frame, out=out)`, or without `out`, over `frames` in turn; outputs come `settle` calls after `reset`."""

    name: str
    step: Callable[..., Any]
    frames: Sequence[Any]
    out: Any
    reset: Callable[[], Any]
    settle: int = 0

    def run(self, calls: int) -> None:
        _timed(self.step, [list(itertools.islice(itertools.cycle(self.frames), calls))], self.out)

    def warm(self) -> None:
        """Start over, and step until it is settled."""
        self.reset()
        self.run(max(WARM, self.settle))


def percentiles(samples: Array) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(samples, p)) for p in PERCENTILES}


def in_turn(blocks: Sequence[Callable[[], None]], rounds: int) -> None:
    """Each of `blocks` once a round, from another one on each time: a slow moment of the machine meets them all."""
    for number in range(rounds):
        for at in range(len(blocks)):
            blocks[(number + at) % len(blocks)]()


def rounds_of(steps: int | None) -> int:
    return ROUNDS if steps is None else max(1, min(ROUNDS, steps))


class Stopwatch:
    """Samples of one subject, of `group` calls each, in `seconds` or `steps` calls; `block` takes those of a round."""

    def __init__(self, subject: Subject, seconds: float, steps: int | None = None) -> None:
        self.subject = subject
        empty = clock_time(_empty([[None]] * EMPTIES))
        call = pilot(subject)
        self.group = group_of(call, empty)
        rounds = rounds_of(steps)
        calls = seconds * 1e9 / call if steps is None else steps
        count = max(1, math.ceil(calls / rounds / self.group))
        # A number of calls that was asked for is kept, whatever it is.
        count = min(count, SAMPLES // ROUNDS) if steps is None else count
        frames = itertools.cycle(subject.frames)
        self.pieces = [list(itertools.islice(frames, self.group)) for _ in range(count)]
        self.raw: list[int] = []
        self.empties: list[int] = []

    def block(self) -> None:
        subject = self.subject
        subject.warm()
        self.empties += _empty(self.pieces[:EMPTIES])
        self.raw += _timed(subject.step, self.pieces, subject.out)

    @property
    def overhead(self) -> float:
        """The part of a sample that is the clock's and the loop's, in ns."""
        return clock_time(self.empties)

    @property
    def samples(self) -> Array:
        """µs a call, the clock's own time taken off: one value a sample."""
        return np.maximum(np.array(self.raw) - self.overhead, 0) / self.group / 1e3


def clock_time(empties: Sequence[int]) -> float:
    """The clock's own time, the 10th percentile of empty samples: so no call looks faster than it is."""
    return float(np.percentile(empties, 10))


def group_of(call: float, empty: float) -> int:
    """Calls in a sample, where one takes `call` and the clock `empty` ns."""
    return 1 if call >= 5 * empty else math.ceil(10 * empty / call)


def cold(subjects: Sequence[Subject], sweep: Callable[[], None], seconds: float) -> list[float]:
    """µs of a call right after `sweep`, the median of each subject; 5 to 101 times, as fit into `seconds`."""
    begin = time.perf_counter_ns()
    sweep()
    times = max(5, min(101, int(seconds * 1e9 / (time.perf_counter_ns() - begin))))
    found: list[list[int]] = [[] for _ in subjects]
    for subject in subjects:
        subject.warm()

    def one(number: int) -> None:
        piece = [subjects[number].frames[:1]]
        sweep()
        (empty,) = _empty(piece)
        (taken,) = _timed(subjects[number].step, piece, subjects[number].out)
        found[number].append(max(0, taken - min(empty, taken)))

    in_turn([lambda number=number: one(number) for number in range(len(subjects))], times)  # type: ignore[misc]
    return [statistics.median(taken) / 1e3 for taken in found]


def pilot(subject: Subject) -> float:
    """The time of a call in ns; the subject is warm afterwards."""
    subject.warm()
    calls = 1
    while True:
        begin = time.perf_counter_ns()
        subject.run(calls)
        taken = time.perf_counter_ns() - begin
        if taken > PILOT_NS:
            return taken / calls
        calls *= 2


def _timed(step: Callable[..., Any], pieces: Sequence[Sequence[Any]], out: Any) -> list[int]:
    """The time of each piece in ns. Two loops, since a call in between costs as much as a small net."""
    clock, times = time.perf_counter_ns, []
    if out is None:
        for piece in pieces:
            begin = clock()
            for frame in piece:
                step(frame)
            times.append(clock() - begin)
    else:
        for piece in pieces:
            begin = clock()
            for frame in piece:
                step(frame, out=out)
            times.append(clock() - begin)
    return times


def _empty(pieces: Sequence[Sequence[Any]]) -> list[int]:
    """As `_timed` with no call: the clock's and the loop's own time in ns."""
    clock, times = time.perf_counter_ns, []
    for piece in pieces:
        begin = clock()
        for _ in piece:
            pass
        times.append(clock() - begin)
    return times
