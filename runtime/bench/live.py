"""An open-loop load test: the live streams that an engine holds, each sending at its own times.

A frame's latency counts from the time it was due, so an engine that falls behind cannot hide it. All frames that are
due are stepped as one round of a pool, here or behind an endpoint. Streams are held where 99 % of the frames are done
within a frame's time.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array, Arrays
from rnn_export.platform.threads import no_collections
from rnn_export.runtime.engine import Engine

MOST = 2**20
FIRST = 16
# How near to the highest number that is held the search comes.
STEP = 1.05
WARM = 0.5  # s
TRIES = 2


@dataclass(frozen=True)
class Point:
    """`streams` at a rate: rounds a second and their mean size, latency in ms, and whether all are held."""

    streams: int
    rounds: float
    batch: float
    p50: float
    p99: float
    worst: float
    held: bool


class Traffic:
    """`streams` open ones, each with a frame every `period` seconds, at phases of its own."""

    def __init__(self, engine: Engine, frames: Arrays, period: float, streams: int) -> None:
        self.pool, self.frames, self.period = engine.pool(capacity=streams), frames, period
        self.ids = np.array([self.pool.open() for _ in range(streams)])
        self.length = len(next(iter(frames.values())))
        rng = np.random.default_rng(0)
        self.phase, self.at = rng.random(streams) * period, rng.integers(self.length, size=streams)

    def run(self, seconds: float) -> Point:
        """Send frames for `seconds`, after an uncounted warm-up."""
        clock = time.perf_counter
        begin = clock()
        end, counts_from = begin + WARM + seconds, begin + WARM
        due, taken, sizes = begin + self.phase, [], []
        while (now := clock()) < end:
            rows = np.flatnonzero(due <= now)
            if not len(rows):
                _wait(float(due.min()) - now)
                continue
            x = {name: values[self.at[rows]] for name, values in self.frames.items()}
            self.pool.step(self.ids[rows], x if len(x) > 1 else next(iter(x.values())))
            if (done := clock()) >= counts_from:
                taken.append(done - due[rows])
                sizes.append(len(rows))
            due[rows] += self.period
            self.at[rows] = (self.at[rows] + 1) % self.length
        # Frames that nobody came to are as late as they are by now.
        late = clock() - due
        taken.append(late[late > self.period])
        latency = np.concatenate(taken) * 1e3
        p50, p99 = np.percentile(latency, (50, 99))
        held = bool(p99 < self.period * 1e3)
        return Point(
            len(self.ids),
            len(sizes) / seconds,
            float(np.mean(sizes)),
            float(p50),
            float(p99),
            float(latency.max()),
            held,
        )

    def close(self) -> None:
        self.pool.close(self.ids)


def _wait(seconds: float) -> None:
    """To the point: a sleep ends late."""
    until = time.perf_counter() + seconds
    if seconds > 3e-4:
        time.sleep(seconds - 2e-4)
    while time.perf_counter() < until:
        pass


def search(first: int) -> Generator[int, bool, None]:
    """Numbers of streams to try, each time told by `send` whether they are held: double, then halve the interval."""
    low, high, count = 0, None, first
    while high is None or (high > low * STEP and high - low > 1):
        held = yield count
        low, high = (count, high) if held else (low, count)
        if high is None:
            if low >= MOST:
                return
            count = 2 * low
        else:
            count = max((low + high) // 2, 1)


def frames_of(rows: Arrays, spec: StreamSpec) -> Arrays:
    """The inputs of one stream's steps, in order, from the first row of arrays (rows, frames, ...).

    Raises StreamError where they have fewer frames than a step takes.
    """
    timed = {t.name for t in spec.inputs if spec.timed(t)}
    steps = min(rows[t.name].shape[1] // t.frames_of(spec.chunk) for t in spec.inputs if t.name in timed)
    if not steps:
        raise StreamError(
            f"the recording has fewer frames than one step takes, {spec.chunk}.", id="bench-recording-short"
        )

    def of_steps(tensor: TensorSpec) -> Array:
        frames = tensor.frames_of(spec.chunk)
        taken = rows[tensor.name][0, : steps * frames]
        return taken.reshape(steps, *((frames,) if frames > 1 else ()), *tensor.frame)

    return {t.name: of_steps(t) if t.name in timed else np.repeat(rows[t.name][:1], steps, 0) for t in spec.inputs}


def load_test(
    engine: Engine,
    frames: Arrays,
    period: float,
    seconds: float,
    numbers: Sequence[int] = (),
    progress: Callable[[int], None] = lambda streams: None,
) -> tuple[list[Point], str]:
    """A point for each of `numbers` of streams, or for those that a search for the most tries, by their number.

    `frames` are those of `frames_of`, and each stream takes one each `period` seconds, for `seconds` at each number.
    The second value says why a search ended early, "" where it did not. Raises StreamError where an endpoint holds
    fewer streams than `numbers` ask for, or than the search begins with.
    """
    points: dict[int, Point] = {}
    tries = search(FIRST)
    waiting = iter(numbers)
    count = next(waiting, 0) or next(tries)
    while True:
        progress(count)
        try:
            points[count] = _attempt(engine, frames, period, count, seconds)
            count = next(waiting) if numbers else tries.send(points[count].held)
        except StopIteration:
            return [points[n] for n in sorted(points)], ""
        except StreamError as error:  # a server has so many streams and no more
            if numbers or not points:
                raise
            return [points[n] for n in sorted(points)], f"the search ends before {count} streams: {error}"


def _attempt(engine: Engine, frames: Arrays, period: float, count: int, seconds: float) -> Point:
    """A point; one that is not held is tried again, since the machine may have been busy with something else."""
    for _ in range(TRIES):
        traffic = Traffic(engine, frames, period, count)
        with no_collections():
            point = traffic.run(seconds)
        traffic.close()
        if point.held:
            break
    return point
