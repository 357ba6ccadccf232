"""Nothing ships unverified: the golden vectors come from the user's own module, called as the user calls it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from rnn_export.arrays import Array, Arrays
from rnn_export.errors import ExportError, SourceError
from rnn_export.export.graph.passes.decompose import DecomposeRecurrent
from rnn_export.export.graph.passes.pipeline import rewrite
from rnn_export.export.lift.api import StreamingModel
from rnn_export.export.lift.noise import Noise
from rnn_export.export.verify.divergence import first_divergent_module
from rnn_export.export.verify.reference import CONSEQUENCE, batches, blamed, golden_vectors, initial_states, own_trace
from rnn_export.precision import TOLERANCES, Tolerance
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drift import Drift, ParityReport
from rnn_export.runtime.replay.drivers import StepDriver
from rnn_export.runtime.replay.golden import Golden
from rnn_export.spec import StreamSpec, TensorSpec

# Rows and fewest steps of what a model is verified on: with fewer the state would hardly be fed back.
ROWS, FEWEST_STEPS = 2, 4
# Noise is tried too where there is a recording: silence or a constant would prove little.
NOISE_FRAMES = 64
# onnx.reference is plain Python.
REFERENCE_FRAMES = 16


def verify_model(
    model: StreamingModel,
    engines: Sequence[Engine],
    step_graph: bytes | None,
    recording: Arrays | None,
    frames: int,
    tolerance: Tolerance,
    progress: Callable[[str], None],
    precision: str = "fp32",
) -> tuple[ParityReport, Golden]:
    """Hold the lifted model, `engines` and ONNX's reference evaluator to the user's module; raises ParityError.

    The evaluator reads `step_graph`, where there is one. `recording` by input is (rows, frames, ...); without it seeded
    noise is used. `tolerance` is that of engines in `precision`; lifting computes in fp32 in any case.
    """
    progress("reference")
    inputs = inputs_to_verify(model, recording, frames)
    if model.spec.sequence_only:
        return _whole_sequences(model, engines, inputs, tolerance, progress)
    exact = tolerance if precision == "fp32" else TOLERANCES["fp32"]
    golden, lifted = golden_vectors(model, inputs, exact)
    _refuse_wrong_lifting(model, golden, lifted)
    if recording:
        noise, on_noise = golden_vectors(model, inputs_to_verify(model, None, min(frames, NOISE_FRAMES)), exact)
        _refuse_wrong_lifting(model, noise, on_noise)
        noise = replace(noise, tolerance=tolerance, precision=precision)
        # What int8 was calibrated on may be nothing like noise.
        for engine in engines if precision != "int8" else ():
            replay_golden(engine, noise).raise_for_failure(f"This was on noise, not on the recording. {CONSEQUENCE}")
    # The stages told are those of one backend, whose number the caller knows.
    vectors = replace(golden, tolerance=tolerance, precision=precision)
    reports = [replay_golden(e, vectors, progress if e is engines[0] else lambda check: None) for e in engines]
    for report in reports:
        report.raise_for_failure(CONSEQUENCE)
    second: list[Drift] = []
    if step_graph is not None:
        progress("onnx.reference")
        second = _second_opinion(model, step_graph, golden)
    report = _as_one(reports)
    report = replace(report, drifts=(*lifted, *report.drifts, *second))
    report.raise_for_failure(CONSEQUENCE)
    return report, vectors


def _as_one(reports: Sequence[ParityReport]) -> ParityReport:
    """The report of several backends, each check under the name of its own."""
    if len(reports) == 1:
        return reports[0]
    drifts = (replace(d, check=f"{r.backend}.{d.check}") for r in reports for d in r.drifts)
    return replace(reports[0], backend=", ".join(r.backend for r in reports), drifts=tuple(drifts))


def _refuse_wrong_lifting(model: StreamingModel, golden: Golden, drifts: tuple[Drift, ...]) -> None:
    report = ParityReport("torch", "cpu", golden.frames, golden.rows, golden.tolerance, drifts)
    if report.ok:
        return
    loop = ClosedLoop(model.spec, golden.inputs)
    found = (first_divergent_module(model, loop.of_rows(r), golden.tolerance) for r in batches(model, golden.rows))
    report.raise_for_failure(
        f"{next(filter(None, found), '')}The lifted step, before any export, is not the model: the tolerance is too "
        "tight, or the model has a memory over time that lifting did not see: take it as an argument, return it, and "
        f"declare it as a state. {CONSEQUENCE}"
    )


def _whole_sequences(
    model: StreamingModel,
    engines: Sequence[Engine],
    inputs: Arrays,
    tolerance: Tolerance,
    progress: Callable[[str], None],
) -> tuple[ParityReport, Golden]:
    """A model that needs whole sequences: sequences of several lengths, each as the module gives it."""
    loop = ClosedLoop(model.spec, inputs)
    reports = []
    for length in sorted({loop.frames, max(loop.frames * 2 // 3, 1)}):
        part = ClosedLoop(model.spec, loop.cut(0, length))
        golden = Golden(part.inputs, own_trace(model, part).outputs, {}, np.array([length]), tolerance)
        for engine in engines:
            reports.append(replay_golden(engine, golden, progress))
            reports[-1].raise_for_failure(CONSEQUENCE)
    return reports[-1], golden


def _second_opinion(model: StreamingModel, step_graph: bytes, golden: Golden) -> list[Drift]:
    """The first frames on onnx.reference, which ignores `activations`: so on the decomposed graph."""
    spec = model.spec
    evaluator = ReferenceEvaluator(onnx.load_from_string(rewrite(step_graph, DecomposeRecurrent())))
    names = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]

    @blamed("onnx.reference, the second opinion, cannot run the graph")
    def call(feed: dict[str, Array]) -> dict[str, Array]:
        results: list[Array] = evaluator.run(None, feed)  # type: ignore[assignment]
        return dict(zip(names, results, strict=True))

    steps = min(golden.frames, max(REFERENCE_FRAMES, fewest_frames(spec))) // spec.chunk
    edges = range(0, (steps + 1) * spec.chunk, spec.chunk)
    driver = StepDriver(spec, call, initial_states(model, golden.rows))
    trace = ClosedLoop(spec, golden.inputs).run(driver, edges)
    return [
        *golden.output_drifts("onnx.reference", spec, trace.outputs, stop=edges[-1]),
        *golden.state_drifts("onnx.reference", trace.states, slice(steps)),
    ]


def inputs_to_verify(model: StreamingModel, recording: Arrays | None, frames: int) -> dict[str, Array]:
    """At most `frames` frames of every input, (rows, frames, ...): of the recording, or noise where there is none.

    Raises SourceError where the recording is too short, and ExportError where no ids can be drawn.
    """
    return _noise(model, frames) if recording is None else _beginning(model.spec, recording, frames)


def fewest_frames(spec: StreamSpec) -> int:
    """Frames of which at least `FEWEST_STEPS` steps give every output."""
    return (FEWEST_STEPS + spec.settling_steps) * spec.chunk


def _noise(model: StreamingModel, frames: int) -> dict[str, Array]:
    noise, spec = Noise(model.original, seed=1), model.spec
    frames = max(frames // spec.chunk * spec.chunk, fewest_frames(spec))
    inputs = {}
    for tensor, leaf in zip(spec.inputs, model.original.inputs, strict=True):
        shape = (ROWS, *((frames,) if spec.timed(tensor) else ()), *tensor.frame)
        _refuse_one_id(tensor, leaf.example, noise.rows)
        inputs[tensor.name] = noise.shaped(leaf.example, shape).numpy()
    return inputs


def _refuse_one_id(tensor: TensorSpec, example: Tensor, rows: int | None) -> None:
    if tensor.dtype.startswith("int") and rows is None and int(example.max()) < 1:
        raise ExportError(
            f"input {tensor.name!r} is {tensor.dtype} and 0 everywhere in the example, and the model has no "
            "nn.Embedding that says which values it takes: put the largest one into the example."
        )


def _beginning(spec: StreamSpec, recording: Arrays, frames: int) -> dict[str, Array]:
    """Whole chunks; a single row gets a second one that starts half-way."""
    loop = ClosedLoop(spec, recording)
    there = min(loop.frames, frames)
    if there // spec.chunk * spec.chunk < fewest_frames(spec):
        late = f" after a delay of {spec.delay}" if spec.has_delay else ""
        raise SourceError(
            f"verification has {there} frames of the recording: it needs at least {fewest_frames(spec)}, "
            f"{FEWEST_STEPS} steps of {spec.chunk}{late}, to feed the state back."
        )
    if loop.rows == 1:
        timed = [t.name for t in spec.inputs if spec.timed(t)]
        second = {n: np.roll(a, a.shape[1] // 2, 1) if n in timed else a for n, a in recording.items()}
        loop = ClosedLoop(spec, {n: np.concatenate([a, second[n]]) for n, a in recording.items()})
    return {n: np.ascontiguousarray(a) for n, a in loop.cut(0, there // spec.chunk * spec.chunk).items()}
