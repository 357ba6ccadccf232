"""Streams of a bundle, to their end, against the untouched model: on the whole sequence, and on each row alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any

import numpy as np
from torch import Tensor

from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.stream import Stream

from . import adversary
from .architectures import Architecture
from .truth import TOLERANCE, Array, Outputs, Truth

# Chunks that are streamed after those in which nothing comes out.
CHUNKS = 12
# Rows that are attacked, and how often in each kind.
ROWS, ATTACKS = 3, 2


def check(architecture: Architecture, engine: Engine[Any], random: Random) -> tuple[float, int]:
    """The largest relative error, and how late a stream is for no reason, in frames; AssertionError if it is wrong.

    On noise in every way to stream, on a sequence of a few frames, on an adversary's inputs in pieces and row by row.
    Half of the lengths are no multiple of the chunk.
    """
    spec = engine.spec
    whole = (CHUNKS + -(-spec.delay // spec.chunk)) * spec.chunk

    def frames(most: int) -> int:
        # The last frame of each piece is known only where a step ends with it.
        exactly = architecture.plan.outputs == "last" or random.random() < 0.5
        return most - (0 if exactly else random.randrange(spec.chunk))

    drawn = architecture.draw(random.randint(1, 4), frames(whole), random.randrange(1000))
    noise = Streams(architecture, engine, drawn, random)
    worst = noise.worst()
    if architecture.plan.outputs != "last":
        short = architecture.draw(2, random.randint(1, spec.delay + spec.chunk), random.randrange(1000))
        if architecture.takes(short):
            worst = max(worst, _attacked("a short one", Streams(architecture, engine, short, random)))
    for kind in ATTACKS * tuple(adversary.KINDS):
        attack = adversary.attack(architecture, kind, ROWS, frames(whole), random)
        worst = max(worst, _attacked(kind, Streams(architecture, engine, attack, random)))
    return worst, 0 if architecture.plan.ahead else noise.late


def _attacked(kind: str, streams: Streams) -> float:
    try:
        return streams.worst(("run in pieces", "each row alone"))
    except AssertionError as wrong:
        raise AssertionError(f"{kind}: {wrong}") from None


class Streams:
    """Streams of one bundle on inputs (rows, frames, ...), of what is held (rows, ...)."""

    def __init__(self, architecture: Architecture, engine: Engine[Any], inputs: list[Tensor], random: Random) -> None:
        self.engine, self.random = engine, random
        self.spec: StreamSpec = engine.spec
        self.rows, self.frames = inputs[0].shape[:2]
        self.inputs = [x.numpy() for x in inputs]
        self.whole, self.single = (Truth(architecture, inputs, alone) for alone in (False, True))

    @property
    def late(self) -> int:
        """Frames by which streams are later than the model, whole steps as soon as a step is more than a frame."""
        lost = [self.frames - math.floor(y.shape[1] / t.rate) for y, t in self._outputs() if self.spec.timed(t)]
        due = max([0, *(-(-n // t.every) * t.every for n in lost for t in self.spec.outputs)])
        return self.spec.delay - due

    def _outputs(self) -> Iterator[tuple[Array, TensorSpec]]:
        return zip(self.whole.outputs, self.spec.outputs, strict=True)

    def worst(self, names: Iterable[str] = ()) -> float:
        """The largest relative error of some ways to stream, or of all; AssertionError above the tolerance."""
        ways = {
            "run in one piece": lambda: self.error(self.ended(self.stream(), self.whole_run)),
            "run in pieces": lambda: self.error(self.ended(self.stream(), self.pieces)),
            "step": lambda: self.error(self.ended(self.stream(), self.steps)),
            "reset": lambda: self.error(self.after_reset()),
            "pool": self.pooled,
            "each row alone": self.alone,
        }
        worst = 0.0
        for name in names or ways:
            try:
                error = ways[name]()
            except AssertionError as wrong:
                raise AssertionError(f"{name}: {wrong}") from None
            assert error <= TOLERANCE, f"{name}: relative error {error:.2g}"
            worst = max(worst, error)
        return worst

    def stream(self) -> Stream:
        return self.engine.stream(batch=self.rows)

    # --- feeding

    def fed(self, start: int, stop: int, row: int | None = None) -> dict[str, Array]:
        given = {}
        for tensor, x in zip(self.spec.inputs, self.inputs, strict=True):
            x = x if row is None else x[row : row + 1]
            given[tensor.name] = x[:, start:stop] if self.spec.timed(tensor) else x
        return given

    def held(self, row: int | None = None) -> dict[str, Array] | None:
        """The inputs of `finish` beside frames."""
        held = {t.name for t in self.spec.inputs if not self.spec.timed(t)}
        return {name: x for name, x in self.fed(0, 0, row).items() if name in held} or None

    def bare(self, given: Any) -> Outputs:
        return list(given.values()) if isinstance(given, dict) else [given]

    def left(self, given: Any) -> Outputs:
        """Outputs of `finish`; of several outputs one without time has no entry."""
        return [given.get(t.name) for t in self.spec.outputs] if isinstance(given, dict) else [given]

    def run(self, stream: Stream, start: int, stop: int, row: int | None = None) -> Outputs:
        return self.bare(stream.run(_single(self.fed(start, stop, row))))

    def ended(self, stream: Stream, feed: Callable[[Stream], list[Outputs]], row: int | None = None) -> list[Outputs]:
        """Outputs of all frames, and those left at the end."""
        given = feed(stream)
        for tensor, y in zip(self.spec.outputs, zip(*given, strict=True), strict=True):
            if self.spec.timed(tensor):
                came, due = sum(a.shape[1] for a in y), self.spec.frames_out(tensor, self._whole_steps)
                assert came == due, f"{tensor.name} has {came} frames before the end in place of {due}"
        left = self.left(stream.finish(self.held(row)))
        if self.rows == 1 or row is not None:
            left = [None if y is None else y[None] for y in left]
        for tensor, y in zip(self.spec.outputs, left, strict=True):
            assert y is None or y.shape[1] <= self.spec.tail, f"{tensor.name} has {y.shape[1]} frames at the end"
        return [*given, left]

    @property
    def _whole_steps(self) -> int:
        return self.frames - self.frames % self.spec.chunk

    def whole_run(self, stream: Stream) -> list[Outputs]:
        return [self.run(stream, 0, self.frames)]

    def pieces(self, stream: Stream) -> list[Outputs]:
        given, at = [], 0
        while at < self.frames:
            stop = min(at + self.random.randint(1, 2 * self.spec.chunk + 3), self.frames)
            given.append(self.run(stream, at, stop))
            at = stop
        return given

    def steps(self, stream: Stream) -> list[Outputs]:
        """The rest below a chunk in a run."""
        chunk, given = self.spec.chunk, []
        for start in range(0, self._whole_steps, chunk):
            feed = self._frame(start)
            if self.rows == 1:
                feed = {name: x[0] for name, x in feed.items()}
            result = stream.step(_single(feed))
            if start + chunk <= self.spec.delay:
                assert result is None, f"frame {start} came before the delay was over"
                continue
            given.append([self._gathered(y, t) for y, t in zip(self.bare(result), self.spec.outputs, strict=True)])
        if self._whole_steps < self.frames or not given:
            given.append(self.run(stream, self._whole_steps, self.frames))
        return given

    def _frame(self, start: int) -> dict[str, Array]:
        """A step's inputs for all rows."""
        feed = self.fed(start, start + self.spec.chunk)
        one = {t.name for t in self.spec.inputs if self.spec.timed(t) and self.spec.chunk == 1}
        return {name: x[:, 0] if name in one else x for name, x in feed.items()}

    def _gathered(self, y: Array, tensor: TensorSpec) -> Array:
        """An output of a step, (rows, frames, ...), or (rows, ...) without a time axis."""
        frames = (-1,) if self.spec.timed(tensor) else ()
        return y.reshape(self.rows, *frames, *tensor.frame)

    def after_reset(self) -> list[Outputs]:
        stream = self.stream()
        # Below a whole chunk too, so that some frames wait when the reset comes.
        self.run(stream, 0, self.random.randint(1, max(self.frames - 1, 1)))
        if self.random.random() < 0.5:
            stream.finish(self.held())
        stream.reset()
        return self.ended(stream, self.pieces)

    def pooled(self) -> float:
        """Streams of a pool, each a row, which end in another order."""
        pool = self.engine.pool(self.rows)
        ids = [pool.open() for _ in range(self.rows)]
        given: list[Outputs] = []
        for start in range(0, self._whole_steps, self.spec.chunk):
            outputs = self.bare(pool.step(ids, _single(self._frame(start))))
            valid = [self.spec.valid(t, start) if self.spec.timed(t) else slice(None) for t in self.spec.outputs]
            gathered = [self._gathered(y, t) for y, t in zip(outputs, self.spec.outputs, strict=True)]
            given.append(
                [
                    y[:, v] if self.spec.timed(t) else y
                    for y, v, t in zip(gathered, valid, self.spec.outputs, strict=True)
                ]
            )
        order = self.random.sample(range(self.rows), self.rows)
        rest = {} if self._whole_steps == self.frames else self.fed(self._whole_steps, self.frames)
        rest = {name: x[order] for name, x in {**rest, **(self.held() or {})}.items()}
        finished = pool.finish([ids[i] for i in order], rest or None)
        by_row = dict(zip(order, map(self.left, finished), strict=True))
        errors = []
        for row in range(self.rows):
            left = [None if y is None else y[None] for y in by_row[row]]
            errors.append(self.error([*([y[row : row + 1] for y in one] for one in given), left], row))
        return max(errors)

    def alone(self) -> float:
        errors = []
        for row in range(self.rows):
            cut = self.random.randint(1, max(self.frames - 1, 1))

            def feed(stream: Stream, row: int = row, cut: int = cut) -> list[Outputs]:
                pieces = [(0, cut), (cut, self.frames)]
                return [self.run(stream, start, stop, row) for start, stop in pieces if start < stop]

            errors.append(self.error(self.ended(self.engine.stream(), feed, row), row))
        return max(errors)

    def error(self, pieces: list[Outputs], row: int | None = None) -> float:
        """The error of joined pieces against the model for all rows at once and for each alone."""
        worst = 0.0
        for i, (true, tensor) in enumerate(self._outputs()):
            timed = self.spec.timed(tensor)
            given = [p[i] for p in pieces if p[i] is not None]
            joined = np.concatenate(given, 1) if timed else given[-1]
            want = (1 if row is not None else self.rows, *true.shape[1:])
            assert joined.shape == want, f"{tensor.name} is {joined.shape} in place of {want}"
            # Of a model that takes one stream at a time, rows of a batch may be something else.
            alone = row is not None or self.spec.rows == 1
            for truth in (self.single,) if alone else (self.single, self.whole):
                worst = max(worst, truth.error(i, joined, timed, row))
        return worst


def _single(given: dict[str, Array]) -> Any:
    """As a stream of one input takes it."""
    return given if len(given) > 1 else next(iter(given.values()))
