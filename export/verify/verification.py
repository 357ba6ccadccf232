"""Verify an export against golden vectors of the user's own module, called as the user calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rnn_export.contract.precision import TOLERANCES, Tolerance
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.blame import CONSEQUENCE
from rnn_export.export.verify.changes import magnified, measured_scales
from rnn_export.export.verify.divergence import first_divergent_module
from rnn_export.export.verify.frames import TRIAL_FRAMES
from rnn_export.export.verify.inputs import inputs_to_verify
from rnn_export.export.verify.reference import (
    batches,
    golden_vectors,
    initial_states,
    lifted_trace,
    own_trace,
)
from rnn_export.export.verify.reports import as_one, with_figures
from rnn_export.export.verify.scales import CHANGES, MORE_CHANGES
from rnn_export.export.verify.second_opinion import second_opinion
from rnn_export.export.verify.trials import trial_vectors
from rnn_export.platform.arrays import Array
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drift import Drift, ParityReport
from rnn_export.runtime.replay.figures import Accept
from rnn_export.runtime.replay.golden import Golden


def verify_model(
    model: StreamingModel,
    engines: Sequence[Engine],
    step_graph: bytes | None,
    recording: Mapping[str, Array] | None,
    steps: int,
    tolerance: Tolerance,
    progress: Callable[[str], None],
    precision: str = "fp32",
    accept: Accept | None = None,
) -> tuple[ParityReport, Golden]:
    """Hold the lifted model, `engines` and ONNX's reference evaluator to the user's module; raises ParityError.

    `steps` are those of the closed loop. The evaluator reads `step_graph`, where there is one. `recording` by input is
    (rows, frames, ...); without it seeded noise is used. `tolerance` is that of engines in `precision`; lifting
    computes in fp32 in any case. `accept` is asked of each engine, see `rnn_export.runtime.replay.figures`.
    """
    progress("reference")
    model.original.decisions.seen.counts.clear()
    inputs, kind = inputs_to_verify(model, recording, steps), "noise" if recording is None else "recording"
    if model.spec.sequence_only:
        return _whole_sequences(model, engines, inputs, kind, tolerance, progress, accept)
    exact = tolerance if precision == "fp32" else TOLERANCES["fp32"]
    golden, lifted = golden_vectors(model, inputs, exact, kind)
    if any(d.step is not None for d in lifted):
        on_measured = golden_vectors(model, inputs, exact, kind, measured_scales(model, golden))
        golden, lifted = on_measured if all(d.step is None for d in on_measured[1]) else (golden, lifted)
    _refuse_wrong_lifting(model, golden, lifted)
    for changes in (CHANGES, MORE_CHANGES):
        trials, failures = trial_vectors(model, golden, exact, TRIAL_FRAMES, changes)
        streamed = lifted_trace(model, ClosedLoop(model.spec, trials.inputs)).outputs
        on_trials = tuple(trials.output_drifts("lifted", model.spec, streamed))
        if all(d.step is None for d in on_trials):
            break
    _refuse_wrong_lifting(model, trials, on_trials)
    start = initial_states(model, golden.rows)

    def held(
        scales: Mapping[str, Array], trials: Golden, progress: Callable[[str], None]
    ) -> tuple[Golden, list[ParityReport]]:
        """The vectors with `scales`, and a report of each engine, and of the second opinion where all others agree."""
        vectors = replace(golden, tolerance=tolerance, precision=precision, trials=trials, scales=scales)
        # The stages told are those of one backend, whose number the caller knows.
        reports = [replay_golden(e, vectors, progress if e is engines[0] else lambda check: None) for e in engines]
        if step_graph is not None and all(report.ok for report in reports):
            progress("onnx.reference")
            second = second_opinion(model.spec, start, step_graph, replace(golden, scales=scales))
            reports.append(replace(reports[0], drifts=tuple(second)))
        return vectors, reports

    vectors, reports = held(golden.scales, trials, progress)
    why = ""
    if not all(report.ok for report in reports):
        scales = golden.scales or measured_scales(model, golden)
        if changes < MORE_CHANGES:
            trials, _ = trial_vectors(model, golden, exact, TRIAL_FRAMES, MORE_CHANGES)
        on_measured_scales = held(scales, trials, lambda check: None)
        if all(report.ok for report in on_measured_scales[1]):
            vectors, reports = on_measured_scales
        else:
            why = next(filter(None, (magnified(golden, scales, r) for r in reports)), "")
    for report in reports:
        report.raise_for_failure(why + CONSEQUENCE)
    reports, second = reports[: len(engines)], reports[len(engines) :]
    reports = with_figures(reports, engines, vectors, accept)
    report = as_one(reports)
    report = replace(
        report,
        drifts=(*lifted, *on_trials, *report.drifts, *(d for other in second for d in other.drifts)),
        not_judged={**failures, **report.not_judged},
    )
    report.raise_for_failure(CONSEQUENCE)
    return report, vectors


def _refuse_wrong_lifting(model: StreamingModel, golden: Golden, drifts: tuple[Drift, ...]) -> None:
    steps = golden.steps(model.spec)
    report = ParityReport("torch", "cpu", golden.frames, golden.rows, golden.tolerance, drifts, steps=steps)
    if report.ok:
        return
    loop = ClosedLoop(model.spec, golden.inputs)
    groups = [*batches(model, golden.rows)]
    if golden.by_entry:
        # Beside louder rows a quiet one would hide what is wrong with it.
        kind = next(d.kind for d in drifts if d.step is not None)
        groups = [np.full(len(groups[0]), golden.kinds.index(kind))]
    found = (first_divergent_module(model, loop.of_rows(rows), golden.tolerance) for rows in groups)
    report.raise_for_failure(
        f"{next(filter(None, found), '')}The lifted step, before any export, is not the model: the tolerance is too "
        "tight, or the model has a memory over time that lifting did not see: take it as an argument, return it, and "
        f"declare it as a state. {CONSEQUENCE}"
    )


def _whole_sequences(
    model: StreamingModel,
    engines: Sequence[Engine],
    inputs: Mapping[str, Array],
    kind: str,
    tolerance: Tolerance,
    progress: Callable[[str], None],
    accept: Accept | None,
) -> tuple[ParityReport, Golden]:
    """A model that needs whole sequences: sequences of several lengths and kinds, each as the module gives it."""
    loop = ClosedLoop(model.spec, inputs)
    reports: list[ParityReport] = []
    failures: dict[str, str] = {}
    for length in sorted({loop.frames, max(loop.frames * 2 // 3, min(model.shortest, loop.frames))}):
        part = ClosedLoop(model.spec, loop.cut(0, length))
        outputs, kinds = own_trace(model, part).outputs, (kind,) * part.rows
        golden = Golden(part.inputs, outputs, {}, np.array([length]), tolerance, kinds=kinds)
        if length == loop.frames:
            trials, failures = trial_vectors(model, golden, tolerance, TRIAL_FRAMES)
            golden = replace(golden, trials=trials)
        for engine in engines:
            reports.append(replay_golden(engine, golden, progress))
            reports[-1].raise_for_failure(CONSEQUENCE)
    (last,) = with_figures(reports[-1:], engines[-1:], golden, accept)
    return replace(last, not_judged={**failures, **last.not_judged}), golden
