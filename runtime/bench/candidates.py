"""What a bench times: each engine of a bundle, held to the golden vectors first, and ONNX Runtime's own run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnn_export.arrays import Array
from rnn_export.bundle import Bundle, TargetRow
from rnn_export.errors import BackendUnavailable, NotInBundle
from rnn_export.layout import canonical, in_graph_layout
from rnn_export.runtime.bench.timing import Subject
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.registry import BACKENDS, open_session
from rnn_export.runtime.replay.drift import ParityReport, drift
from rnn_export.runtime.replay.golden import Golden, replay
from rnn_export.spec import StreamSpec
from rnn_export.targets import TARGETS

# The target that a backend runs; TensorRT's are all those that are built with a library of it.
TARGET = {"native": "c", "onnxruntime": "onnx", "torchscript": "torchscript"}
BASELINE = "onnxruntime run(dict)"
WRONG = "It was not timed: a bench of a wrong engine says nothing."


@dataclass(frozen=True)
class Candidate:
    """One row of a bundle on one backend, or where `row` is None what was asked for and is not there."""

    backend: str
    row: TargetRow | None
    target: str

    @property
    def precision(self) -> str | None:
        return self.row.precision if self.row else None


@dataclass(frozen=True)
class Runner:
    """An engine that runs here, ready to be timed; `error` is its largest one against the golden vectors, relative."""

    candidate: Candidate
    subject: Subject
    device: str
    rows: int
    error: float


def candidates(bundle: Bundle, backends: Sequence[str] = ()) -> list[Candidate]:
    """Every pair of backend and row, of all backends or of `backends`; raises BackendUnavailable on an unknown one."""
    if unknown := [name for name in backends if name not in BACKENDS]:
        raise BackendUnavailable(
            f"there is no backend {', '.join(map(repr, unknown))}: choose from {', '.join(BACKENDS)}."
        )
    found = []
    for backend in dict.fromkeys(backends or BACKENDS):
        rows = [row for row in bundle.targets if _runs(backend, row)]
        found += [Candidate(backend, row, row.target) for row in rows]
        if backends and not rows:
            found.append(Candidate(backend, None, TARGET.get(backend, backend)))
    return found


def _runs(backend: str, row: TargetRow) -> bool:
    if backend in TARGET:
        return row.target == TARGET[backend]
    return row.target in TARGETS and TARGETS[row.target].library is not None


def open_engine(bundle: Bundle, candidate: Candidate) -> Engine:
    """Raises BackendUnavailable with the reason why it cannot run here."""
    if candidate.row is None:
        has = ", ".join(sorted({row.target for row in bundle.targets}))
        raise NotInBundle(
            f"the bundle has no target {candidate.target!r}, only {has}: export it with --target {candidate.target}."
        )
    # A bundle of this row alone, since two of TensorRT's may be of one precision.
    alone = replace(bundle, targets=(candidate.row,))
    return Engine.of(alone, candidate.backend, candidate.precision)


def verified(engine: Engine, golden: Golden, name: str) -> float:
    """The largest relative error of the closed loop; raises ParityError where one is outside the tolerance."""
    report = replay(engine, golden)
    replace(report, backend=name).raise_for_failure(WRONG)
    return max(d.relative for d in report.drifts)


def runner(engine: Engine, candidate: Candidate, golden: Golden, name: str, error: float) -> Runner:
    """A stream of the fewest rows that the engine takes, on the frames of the golden vectors."""
    spec, rows = engine.spec, engine.batches[0]
    stream = engine.stream(batch=rows)
    frames = [_value(frame) for frame in _frames(spec, golden, rows)]
    settle = -(-spec.delay // spec.chunk)
    out = None
    if not spec.delay:
        given = stream.step(frames[0])
        out = {n: np.empty_like(a) for n, a in given.items()} if isinstance(given, Mapping) else np.empty_like(given)
    subject = Subject(name, stream.step, frames, out, stream.reset, settle)
    return Runner(candidate, subject, engine.device, rows, error)


def _value(frame: dict[str, Any]) -> Any:
    return frame if len(frame) > 1 else next(iter(frame.values()))


def _frames(spec: StreamSpec, golden: Golden, rows: int) -> Iterator[dict[str, Any]]:
    """What `Stream.step` takes, one step after the other, each an array of its own."""
    for start in range(0, golden.frames - spec.chunk + 1, spec.chunk):
        frame = {}
        for tensor in spec.inputs:
            piece = golden.inputs[tensor.name]
            piece = piece[np.resize(np.arange(len(piece)), rows)]
            if spec.timed(tensor):
                piece = piece[:, start] if spec.chunk == 1 else piece[:, start : start + spec.chunk]
            piece = piece[0] if rows == 1 else piece
            # A number that comes as a frame is numpy's own, as an array gives it.
            frame[tensor.name] = np.array(piece, order="C") if np.ndim(piece) else piece
        yield frame


class OrtBaseline:
    """ONNX Runtime as one writes it without this toolkit: `run(None, {...})`, the states handed on from call to call.

    The session is the backend's: one thread and no arena, with which ONNX Runtime is faster than as it comes. The
    frames stand in the graph's layout already, and nothing is checked.
    """

    def __init__(self, bundle: Bundle, candidate: Candidate, golden: Golden) -> None:
        session: Any = open_session("onnxruntime", bundle, candidate.precision, None, 1)
        spec, states = bundle.spec, bundle.initial_states()
        self.spec, self.count = spec, len(spec.outputs)
        self.golden = golden.fitted(Engine(bundle, "onnxruntime", session))
        self.initial = {s.input: np.array(states[s.name][None], order="C") for s in spec.states}
        self.feed = dict(self.initial)
        self.step = _by_hand(
            session.graphs.step.run, self.feed, [t.name for t in spec.inputs], list(self.initial), self.count
        )
        first = {name: array[:1] for name, array in self.golden.inputs.items()}
        self.frames = [
            _value(in_graph_layout(spec, first, start, start + spec.chunk))
            for start in range(0, golden.frames, spec.chunk)
        ]

    def reset(self) -> None:
        self.feed.update(self.initial)

    def verified(self) -> float:
        """As `verified` of an engine, on one row, step by step."""
        spec, golden = self.spec, self.golden
        self.reset()
        given = [self.step(frame)[: self.count] for frame in self.frames]
        drifts = []
        for tensor, values in zip(spec.outputs, zip(*given, strict=True), strict=True):
            steps = [canonical(value, tensor) for value in values]
            if not spec.timed(tensor):
                got, want, at = steps[-1][:, None], golden.outputs[tensor.name][:1, None], golden.at[-1:]
            else:
                got = np.concatenate(steps, 1)[:, spec.delay // tensor.every :] if spec.has_time else np.stack(steps, 1)
                want = golden.outputs[tensor.name][:1]
                at = np.arange(spec.delay, golden.frames, tensor.every) + tensor.every
            drifts.append(drift("step", tensor.name, got, want, at, golden.tolerance))
        report = ParityReport(BASELINE, "cpu", golden.frames, 1, golden.tolerance, tuple(drifts))
        report.raise_for_failure(WRONG)
        return max(d.relative for d in drifts)

    def runner(self, candidate: Candidate, error: float) -> Runner:
        subject = Subject(BASELINE, self.step, self.frames, None, self.reset, -(-self.spec.delay // self.spec.chunk))
        return Runner(candidate, subject, "cpu", 1, error)


def _by_hand(
    run: Callable[..., list[Array]], feed: dict[str, Array], inputs: list[str], states: list[str], count: int
) -> Callable[[Any], list[Array]]:
    """As fast as the line `y, h, c = run(None, {"x": x, "h": h, "c": c})`, for any number of names."""
    places = list(enumerate(states, count))
    (only,) = inputs if len(inputs) == 1 else (None,)

    def step(frame: Any) -> list[Array]:
        if only is None:
            feed.update(frame)
        else:
            feed[only] = frame
        given = run(None, feed)
        for at, name in places:
            feed[name] = given[at]
        return given

    return step
