"""The engines that a bench times, each held to the golden vectors first, and ONNX Runtime's own run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnn_export.bundle import Bundle, TargetRow
from rnn_export.contract.layout import graph_inputs
from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import BackendUnavailable
from rnn_export.platform.arrays import Array
from rnn_export.runtime.bench.timing import Subject
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import not_in_bundle
from rnn_export.runtime.registry import BACKENDS, open_session
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drift import ParityReport
from rnn_export.runtime.replay.drivers import StepDriver, as_frame, only_value
from rnn_export.runtime.replay.golden import FILE, Golden

BASELINE = "onnxruntime run(dict)"


@dataclass(frozen=True)
class Candidate:
    """One row of a bundle on one backend; `row` is None where the bundle has none for it."""

    backend: str
    row: TargetRow | None
    target: str

    @property
    def precision(self) -> str | None:
        return self.row.precision if self.row else None

    @property
    def name(self) -> str:
        several = sum(target.backend == self.backend for target in TARGETS.values()) > 1
        return f"{self.target if several else self.backend} {self.precision}"


@dataclass(frozen=True)
class Runner:
    """An engine that runs here, ready to be timed; `error` is its largest relative one against the golden vectors."""

    candidate: Candidate
    subject: Subject
    device: str
    rows: int
    error: float


def candidates(bundle: Bundle, backends: Sequence[str] = ()) -> list[Candidate]:
    """Every pair of backend and row, of all backends or of `backends`; raises BackendUnavailable on an unknown one."""
    if unknown := [name for name in backends if name not in BACKENDS]:
        names = ", ".join(map(repr, unknown))
        raise BackendUnavailable(
            f"there is no backend {names}: choose from {', '.join(BACKENDS)}.", id="bench-backend-unknown"
        )
    found = []
    for backend in dict.fromkeys(backends or BACKENDS):
        rows = [row for row in bundle.targets if _runs(backend, row)]
        found += [Candidate(backend, row, row.target) for row in rows]
        if backends and not rows:
            found.append(Candidate(backend, None, _target(backend)))
    return found


def _runs(backend: str, row: TargetRow) -> bool:
    return row.target in TARGETS and TARGETS[row.target].backend == backend


def _target(backend: str) -> str:
    """The first target that a backend runs."""
    return next(target.name for target in TARGETS.values() if target.backend == backend)


def _open_engine(bundle: Bundle, candidate: Candidate, trust: bool) -> Engine:
    """Raises BackendUnavailable with the reason why it cannot run here."""
    if candidate.row is None:
        raise not_in_bundle(candidate.target, bundle.targets)
    # A bundle of this row alone, since two of TensorRT's may be of one precision.
    alone = replace(bundle, targets=(candidate.row,))
    return Engine.of(alone, candidate.backend, candidate.precision, trust=trust)


def _largest_error(report: ParityReport) -> float:
    """Relative; raises ParityError where one is outside the tolerance."""
    report.raise_for_failure("It was not timed: a bench of a wrong engine says nothing.")
    return max(d.relative for d in report.drifts)


def runner_of(engine: Engine, candidate: Candidate, golden: Golden, error: float) -> Runner:
    """A stream of the fewest rows that the engine takes, on the frames of the golden vectors."""
    spec, rows = engine.spec, engine.batches[0]
    stream = engine.stream(batch=rows)
    repeated = golden.of_rows(np.resize(np.arange(golden.rows), rows))
    frames = [_own(spec, piece) for _, _, piece in ClosedLoop(spec, repeated.inputs).pieces()]
    out = None
    if not spec.has_delay:
        given = stream.step(frames[0])
        out = {n: np.empty_like(a) for n, a in given.items()} if isinstance(given, Mapping) else np.empty_like(given)
    subject = Subject(candidate.name, stream.step, frames, out, stream.reset, spec.settling_steps)
    return Runner(candidate, subject, engine.device, rows, error)


def _own(spec: StreamSpec, inputs: Mapping[str, Array]) -> Any:
    """One step as `Stream.step` takes it, with arrays copied."""
    # A number that comes as a frame is numpy's own, as an array gives it.
    frame = {name: np.array(a, order="C") if np.ndim(a) else a for name, a in as_frame(spec, inputs).items()}
    return only_value(frame)


class OrtBaseline:
    """ONNX Runtime as one writes it without this toolkit: `run(None, {...})`, the states handed on from call to call.

    The session is the backend's: one thread and no arena, with which ONNX Runtime is faster than as it comes. The
    frames stand in the graph's layout already, and nothing is checked.
    """

    def __init__(self, bundle: Bundle, candidate: Candidate, golden: Golden) -> None:
        session: Any = open_session("onnxruntime", bundle, candidate.precision, None, 1)
        spec, states = bundle.spec, bundle.initial_states()
        self.spec = spec
        self.golden = golden.fitted(Engine(bundle, "onnxruntime", session)).of_rows(slice(1))
        self.loop = ClosedLoop(spec, self.golden.inputs)
        self.initial = {s.input: np.array(states[s.name][None], order="C") for s in spec.states}
        self.feed = dict(self.initial)
        inputs = [t.name for t in spec.inputs]
        self.step = _by_hand(session.graphs.step.run, self.feed, inputs, list(self.initial), len(spec.outputs))
        self.frames = [only_value(graph_inputs(spec, piece)) for _, _, piece in self.loop.pieces()]

    def reset(self) -> None:
        self.feed.update(self.initial)

    def verified(self) -> float:
        """As `_largest_error` of an engine, on one row, step by step."""
        spec, golden, names = self.spec, self.golden, [t.name for t in self.spec.outputs]
        self.reset()

        def call(feed: dict[str, Array]) -> dict[str, Array]:
            return dict(zip(names, self.step(only_value(feed)), strict=False))

        trace = self.loop.run(StepDriver(spec, call, {}))
        drifts = tuple(golden.output_drifts("step", spec, trace.outputs))
        return _largest_error(ParityReport(BASELINE, "cpu", golden.frames, 1, golden.tolerance, drifts))

    def runner(self, candidate: Candidate, error: float) -> Runner:
        subject = Subject(BASELINE, self.step, self.frames, None, self.reset, self.spec.settling_steps)
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


def runners(
    bundle: Bundle, backends: Sequence[str], verify: bool = True, trust: bool = False
) -> tuple[list[Runner], list[dict[str, str | None]]]:
    """The runners, ONNX Runtime's own run last, and the skipped candidates with their reasons."""
    golden = Golden.from_arrays(bundle.arrays(FILE), bundle.spec)
    found, skipped = [], []
    for candidate in candidates(bundle, backends):
        try:
            engine = _open_engine(bundle, candidate, trust)
        except BackendUnavailable as error:
            skipped.append({"backend": candidate.backend, "precision": candidate.precision, "reason": str(error)})
            continue
        off = _largest_error(replace(replay_golden(engine, golden), backend=candidate.name)) if verify else 0.0
        found.append(runner_of(engine, candidate, golden, off))
    if not found:
        reasons = "".join(f"\n  {s['backend']}: {s['reason']}" for s in skipped)
        raise BackendUnavailable(
            f"nothing of {bundle.path} can be timed here.{reasons or ' It has no target to run.'}",
            id="bench-nothing-timed",
        )
    for candidate in candidates(bundle, ["onnxruntime"])[:1]:
        try:
            baseline = OrtBaseline(bundle, candidate, golden)
        except BackendUnavailable as error:
            skipped.append({"backend": BASELINE, "precision": candidate.precision, "reason": str(error)})
            continue
        found.append(baseline.runner(candidate, baseline.verified() if verify else 0.0))
    return found, skipped
