"""Ends of sequences: of a few lengths, the frames that steps and `finish` give against those of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from rnn_export.arrays import Array
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drift import Drift, drift
from rnn_export.runtime.replay.drivers import only_value, with_time, without_time
from rnn_export.runtime.replay.golden import Golden
from rnn_export.spec import StreamSpec

# Remainders of a step that are tried, at most.
REMAINDERS = 8


def lengths_tried(spec: StreamSpec, frames: int, shortest: int = 1) -> list[int]:
    """Numbers of frames, up to `frames`, that sequences end after: one, few, less than the delay, each remainder.

    All are at least `shortest`, the fewest of which a stream gives what the model does.
    None where a step is a frame and the end gives nothing: the steps of a long one give all frames that it has.
    """
    if not spec.tail and spec.chunk == 1:
        return []
    whole = max(spec.settling_steps + 2, -(-shortest // spec.chunk)) * spec.chunk
    rests = np.unique(np.linspace(0, spec.chunk - 1, REMAINDERS).round().astype(int))
    tried = {1, 2, 3, spec.delay // 2, spec.delay, spec.delay + 1, *(whole + int(rest) for rest in rests)}
    return sorted(n for n in tried if max(shortest, 1) <= n <= frames)


def end_drifts(
    check: str, engine: Engine, golden: Golden, ended: Callable[..., Mapping[str, Array]]
) -> Iterator[Drift]:
    """How far what `ended` gives of the golden sequences that end is from what the model gives of them."""
    for frames, wanted in golden.ends.items():
        loop = ClosedLoop(engine.spec, ClosedLoop(engine.spec, golden.inputs).cut(0, frames))
        given = ended(engine, loop)
        for name, want in wanted.items():
            steps = np.arange(1, want.shape[1] + 1)
            yield drift(check, name, given[name], want, steps, golden.tolerance, golden.kinds)


def by_stream(engine: Engine, loop: ClosedLoop) -> dict[str, Array]:
    """Every output with frames of a sequence that a stream is fed in two pieces, (rows, frames, ...)."""
    spec, stream = engine.spec, engine.stream(batch=loop.rows)
    pieces: dict[str, list[Array]] = {t.name: [] for t in spec.outputs if spec.timed(t)}
    held = {t.name: loop.inputs[t.name] for t in spec.inputs if not spec.timed(t)}
    for start, stop in ((0, loop.frames // 2), (loop.frames // 2, loop.frames)):
        if start < stop:
            _add(pieces, _named(spec, stream.run(only_value(loop.cut(start, stop)))))
    left = _named(spec, stream.finish(held or None))
    _add(pieces, {n: None if a is None else a[None] if loop.rows == 1 else a for n, a in left.items()})
    return {name: np.concatenate(parts, 1) for name, parts in pieces.items()}


def by_pool(engine: Engine, loop: ClosedLoop) -> dict[str, Array]:
    """The same of streams of one pool."""
    spec, pool = engine.spec, engine.pool(loop.rows)
    ids = [pool.open() for _ in range(loop.rows)]
    pieces: dict[str, list[Array]] = {t.name: [] for t in spec.outputs if spec.timed(t)}
    whole = loop.frames - loop.frames % spec.chunk
    for start in range(0, whole, spec.chunk):
        frame = without_time(spec, loop.cut(start, start + spec.chunk))
        given = with_time(spec, _named(spec, pool.step(ids, only_value(frame))))
        _add(pieces, {t.name: given[t.name][:, spec.valid(t, start)] for t in spec.outputs if t.name in pieces})
    rest, untimed = loop.cut(whole, loop.frames), {t.name for t in spec.inputs if not spec.timed(t)}
    left = pool.finish(ids, {name: a for name, a in rest.items() if whole < loop.frames or name in untimed} or None)
    _add(pieces, {name: np.stack([_named(spec, row)[name] for row in left]) for name in pieces})
    return {name: np.concatenate(parts, 1) for name, parts in pieces.items()}


def _named(spec: StreamSpec, given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {spec.outputs[0].name: given}


def _add(pieces: Mapping[str, list[Array]], given: Mapping[str, Array | None]) -> None:
    for name, parts in pieces.items():
        value = given.get(name)
        if value is not None:
            parts.append(value)
