"""Streams of a bundle against the untouched model: on the whole sequence, and on each of its rows alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rnn_export.runtime.engine import Engine
from rnn_export.runtime.stream import Stream
from rnn_export.spec import StreamSpec, TensorSpec

from . import adversary
from .architectures import Architecture

Array = npt.NDArray[Any]
Outputs = list[Array]

# An error relative to the largest magnitude that the output of this row had until this frame, or FLOOR.
TOLERANCE, FLOOR = 2e-5, 1e-3
# A stream may be off LEEWAY times as far as the model itself is, on inputs and with weights that differ by a rounding:
# a gate at its level and a norm of what is constant amplify it.
LEEWAY, SHAKEN = 10, 3
# Chunks that are streamed after those in which nothing comes out.
CHUNKS = 12
# Rows that are attacked, and how often in each kind.
ROWS, ATTACKS = 3, 2


def check(architecture: Architecture, engine: Engine[Any], random: Random) -> tuple[float, int]:
    """The largest relative error, and how late a stream is for no reason, in frames; AssertionError if it is wrong.

    On noise in every way to stream, on an adversary's inputs in pieces and row by row.
    """
    frames = (CHUNKS + -(-engine.spec.delay // engine.spec.chunk)) * engine.spec.chunk
    drawn = architecture.draw(random.randint(1, 4), frames, random.randrange(1000))
    noise = Streams(architecture, engine, drawn, random)
    worst = noise.worst()
    for kind in ATTACKS * tuple(adversary.KINDS):
        attack = adversary.attack(architecture, kind, ROWS, frames, random)
        try:
            error = Streams(architecture, engine, attack, random).worst(("run in pieces", "each row alone"))
        except AssertionError as wrong:
            raise AssertionError(f"{kind}: {wrong}") from None
        worst = max(worst, error)
    return worst, noise.late


# --- comparing ----------------------------------------------------------------------------------------------------


def apart(a: Array, b: Array) -> Array:
    """|a - b|: zero where both are the same infinity or both not a number, infinite where only one is."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf))


def scale(true: Array, timed: bool) -> Array:
    """The largest finite magnitude of each row so far, (rows, frames, 1, ...), or of each row, (rows, 1, ...)."""
    size = np.abs(np.where(np.isfinite(true), true, 0).astype(np.float64))
    size = size.max(axis=tuple(range(2 if timed else 1, true.ndim)), keepdims=True)
    return np.maximum(np.maximum.accumulate(size, 1) if timed else size, FLOOR)


class Truth:
    """What the untouched model gives, (rows, frames, ...), for all rows at once or for each `alone`."""

    def __init__(self, architecture: Architecture, inputs: list[Tensor], alone: bool) -> None:
        self.architecture, self.inputs, self.alone = architecture, inputs, alone
        self.outputs = self._of(architecture, inputs)

    def _of(self, architecture: Architecture, inputs: list[Tensor]) -> Outputs:
        calls = [[x[i : i + 1] for x in inputs] for i in range(len(inputs[0]))] if self.alone else [inputs]
        given = [architecture.truth([x.clone() for x in call]) for call in calls]
        return [torch.cat(rows).numpy() for rows in zip(*given, strict=True)]

    @cached_property
    def leeway(self) -> Outputs:
        others = [self._of(*self.architecture.shaken(self.inputs, seed)) for seed in range(SHAKEN)]
        # A model may make float32 of its own.
        with contextlib.suppress(RuntimeError):
            others.append(self._of(*self.architecture.exact(self.inputs)))
        moved = [[apart(a, b) for a, b in zip(self.outputs, other, strict=True)] for other in others]
        return [LEEWAY * np.max(one, axis=0) for one in zip(*moved, strict=True)]

    def error(self, i: int, given: Array, timed: bool, row: int | None) -> float:
        """The largest relative error of output `i`, over time for as many frames as were given, of all rows or one."""
        rows = slice(row, None if row is None else row + 1)

        def cut(x: Array) -> Array:
            return x[rows, : given.shape[1]] if timed else x[rows]

        size = cut(scale(self.outputs[i], timed))
        off = apart(given, cut(self.outputs[i]))
        if (off / size).max() > TOLERANCE:
            with np.errstate(invalid="ignore"):
                off = np.nan_to_num(np.maximum(off - cut(self.leeway[i]), 0), nan=0.0)
        return float((off / size).max())


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
        lost = [self.frames - y.shape[1] * t.every for y, t in self._outputs() if self.spec.timed(t)]
        due = max([0, *(-(-n // t.every) * t.every for n in lost for t in self.spec.outputs)])
        return self.spec.delay - due

    def _outputs(self) -> Iterator[tuple[Array, TensorSpec]]:
        return zip(self.whole.outputs, self.spec.outputs, strict=True)

    def worst(self, names: Iterable[str] = ()) -> float:
        """The largest relative error of some ways to stream, or of all; AssertionError above the tolerance."""
        ways = {
            "run in one piece": lambda: self.error([self.run(self.stream(), 0, self.frames)]),
            "run in pieces": lambda: self.error(self.pieces(self.stream())),
            "step": lambda: self.error(self.steps(self.stream(), self.frames)),
            "reset": lambda: self.error(self.after_reset()),
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

    def fed(self, start: int, stop: int, row: int | None = None) -> Any:
        given = {}
        for tensor, x in zip(self.spec.inputs, self.inputs, strict=True):
            x = x if row is None else x[row : row + 1]
            given[tensor.name] = x[:, start:stop] if self.spec.timed(tensor) else x
        return given if len(given) > 1 else next(iter(given.values()))

    def bare(self, given: Any) -> Outputs:
        return list(given.values()) if isinstance(given, dict) else [given]

    def run(self, stream: Stream, start: int, stop: int, row: int | None = None) -> Outputs:
        return self.bare(stream.run(self.fed(start, stop, row)))

    def pieces(self, stream: Stream) -> list[Outputs]:
        given, at = [], 0
        while at < self.frames:
            stop = min(at + self.random.randint(1, 2 * self.spec.chunk + 3), self.frames)
            given.append(self.run(stream, at, stop))
            at = stop
        return given

    def steps(self, stream: Stream, frames: int) -> list[Outputs]:
        chunk, given = self.spec.chunk, []
        for start in range(0, frames, chunk):
            feed = self.fed(start, start + chunk)
            feed = feed if isinstance(feed, dict) else {self.spec.inputs[0].name: feed}
            for tensor in self.spec.inputs:
                if self.spec.timed(tensor) and chunk == 1:
                    feed[tensor.name] = feed[tensor.name][:, 0]
                if self.rows == 1:
                    feed[tensor.name] = feed[tensor.name][0]
            result = stream.step(feed if len(feed) > 1 else next(iter(feed.values())))
            if start + chunk <= self.spec.delay:
                assert result is None, f"frame {start} came before the delay was over"
                continue
            outputs = self.bare(result)
            given.append(
                [
                    y.reshape(self.rows, -1 if self.spec.timed(t) else 1, *t.frame)
                    if self.spec.timed(t)
                    else y.reshape(self.rows, *t.frame)
                    for y, t in zip(outputs, self.spec.outputs, strict=True)
                ]
            )
        return given

    def after_reset(self) -> list[Outputs]:
        stream = self.stream()
        # Below a whole chunk too, so that some frames wait when the reset comes.
        self.run(stream, 0, self.random.randint(1, self.frames - 1))
        stream.reset()
        return self.pieces(stream)

    def alone(self) -> float:
        errors = []
        for row in range(self.rows):
            stream, cut = self.engine.stream(), self.random.randint(1, self.frames - 1)
            errors.append(self.error([self.run(stream, 0, cut, row), self.run(stream, cut, self.frames, row)], row))
        return max(errors)

    def error(self, pieces: list[Outputs], row: int | None = None) -> float:
        """Of what came out in pieces, against the model for all rows at once and for each alone."""
        worst = 0.0
        for i, (true, tensor) in enumerate(self._outputs()):
            timed = self.spec.timed(tensor)
            given = np.concatenate([p[i] for p in pieces], 1) if timed else pieces[-1][i]
            due = (self.frames - self.spec.delay) // tensor.every
            want = (1 if row is not None else self.rows, *((due, *true.shape[2:]) if timed else true.shape[1:]))
            assert given.shape == want, f"{tensor.name} is {given.shape} in place of {want}"
            for truth in (self.single,) if row is not None else (self.single, self.whole):
                worst = max(worst, truth.error(i, given, timed, row))
        return worst
