"""Checks of sequence ends: for some lengths, the frames of steps and `finish` against those of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.platform.arrays import Array
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drift import Drift, drift
from rnn_export.runtime.replay.drivers import only_value, with_time, without_time
from rnn_export.runtime.replay.golden import Golden

# Remainders of a step that are tried, at most.
REMAINDERS = 8
# Steps after each of which an output without a time axis is compared.
PREFIXES = 16


def lengths_tried(spec: StreamSpec, frames: int, shortest: int = 1) -> list[int]:
    """Numbers of frames, up to `frames`, that sequences end after: one, few, less than the delay, each remainder.

    All are at least `shortest`, the fewest for which a stream agrees with the model. Where a step is a frame and the
    end gives nothing, the steps of a long sequence give all its frames: then these are only the ends of the first
    steps, for outputs without a time axis, which differ after each step.
    """
    tried: set[int] = set()
    if gives_at_end(spec):
        whole = max(spec.settling_steps + 2, -(-shortest // spec.chunk)) * spec.chunk
        rests = np.unique(np.linspace(0, spec.chunk - 1, REMAINDERS).round().astype(int))
        tried = {1, 2, 3, spec.delay // 2, spec.delay, spec.delay + 1, *(whole + int(rest) for rest in rests)}
    if not all(map(spec.timed, spec.outputs)):
        first = max(spec.delay, shortest - 1) // spec.chunk + 1
        tried |= {spec.chunk * step for step in range(first, first + PREFIXES)}
    return sorted(n for n in tried if max(shortest, 1) <= n <= frames)


def gives_at_end(spec: StreamSpec) -> bool:
    """True if the steps of a long sequence do not give all frames that shorter ones have."""
    return spec.tail > 0 or spec.chunk > 1


def is_compared(spec: StreamSpec, tensor: TensorSpec, frames: int) -> bool:
    """True if an output is compared after so many frames: without a time axis, only where a step ends with them."""
    if spec.timed(tensor):
        return gives_at_end(spec)
    return not spec.sequence_only and frames % spec.chunk == 0 and frames > spec.delay


def end_drifts(
    check: str, engine: Engine, golden: Golden, ended: Callable[..., Mapping[str, Array]]
) -> Iterator[Drift]:
    """The drift of the outputs of `ended` from the model's, for each golden sequence that ends."""
    for frames, wanted in golden.ends.items():
        loop = ClosedLoop(engine.spec, ClosedLoop(engine.spec, golden.inputs).cut(0, frames))
        given = ended(engine, loop)
        for tensor in (t for t in engine.spec.outputs if t.name in wanted):
            got, want = given[tensor.name], wanted[tensor.name]
            if engine.spec.timed(tensor):
                steps = np.arange(1, want.shape[1] + 1)
            else:
                got, want, steps = got[:, None], want[:, None], np.array([frames // engine.spec.chunk])
            yield drift(check, tensor.name, got, want, steps, golden.tolerance, golden.kinds)


def by_stream(engine: Engine, loop: ClosedLoop) -> dict[str, Array]:
    """Every output of a sequence that a stream is fed in two pieces, (rows, frames, ...), or as of the last frame."""
    spec, stream = engine.spec, engine.stream(batch=loop.rows)
    pieces: dict[str, list[Array]] = {t.name: [] for t in spec.outputs}
    held = {t.name: loop.inputs[t.name] for t in spec.inputs if not spec.timed(t)}
    for start, stop in ((0, loop.frames // 2), (loop.frames // 2, loop.frames)):
        if start < stop:
            _add(pieces, _named(spec, stream.run(only_value(loop.cut(start, stop)))))
    left = _named(spec, stream.finish(held or None))
    ends = {t.name: left[t.name] for t in spec.outputs if spec.timed(t)}
    _add(pieces, {n: None if a is None else a[None] if loop.rows == 1 else a for n, a in ends.items()})
    return _joined(spec, pieces)


def by_pool(engine: Engine, loop: ClosedLoop) -> dict[str, Array]:
    """The same of streams of one pool."""
    spec, pool = engine.spec, engine.pool(loop.rows)
    ids = [pool.open() for _ in range(loop.rows)]
    pieces: dict[str, list[Array]] = {t.name: [] for t in spec.outputs}
    whole = loop.frames - loop.frames % spec.chunk
    for start in range(0, whole, spec.chunk):
        frame = without_time(spec, loop.cut(start, start + spec.chunk))
        given = with_time(spec, _named(spec, pool.step(ids, only_value(frame))))
        _add(pieces, {t.name: given[t.name][:, spec.valid(t, start)] for t in spec.outputs if spec.timed(t)})
        _add(pieces, {t.name: given[t.name] for t in spec.outputs if not spec.timed(t)})
    rest, untimed = loop.cut(whole, loop.frames), {t.name for t in spec.inputs if not spec.timed(t)}
    left = pool.finish(ids, {name: a for name, a in rest.items() if whole < loop.frames or name in untimed} or None)
    timed = [t.name for t in spec.outputs if spec.timed(t)]
    _add(pieces, {name: np.stack([_named(spec, row)[name] for row in left]) for name in timed})
    return _joined(spec, pieces)


def _joined(spec: StreamSpec, pieces: Mapping[str, list[Array]]) -> dict[str, Array]:
    found = {t.name: (pieces[t.name], spec.timed(t)) for t in spec.outputs if pieces[t.name]}
    return {name: np.concatenate(parts, 1) if timed else parts[-1] for name, (parts, timed) in found.items()}


def _named(spec: StreamSpec, given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {spec.outputs[0].name: given}


def _add(pieces: Mapping[str, list[Array]], given: Mapping[str, Array | None]) -> None:
    for name, parts in pieces.items():
        value = given.get(name)
        if value is not None:
            parts.append(value)
