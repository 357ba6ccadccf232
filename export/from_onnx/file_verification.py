"""Verify the step, and all written from it, against the file in the closed loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir

from rnn_export.contract.layout import row_by_row
from rnn_export.contract.parity_json import ORDINARY
from rnn_export.contract.precision import Tolerance
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import ExportError
from rnn_export.export.from_onnx.file_inputs import Noise
from rnn_export.export.from_onnx.layout import Layout
from rnn_export.export.from_onnx.memory import check_whole
from rnn_export.export.from_onnx.original import Original
from rnn_export.export.graph.passes.decompose import DecomposeRecurrent
from rnn_export.export.graph.passes.pipeline import parse, rewrite
from rnn_export.export.verify.blame import CONSEQUENCE
from rnn_export.export.verify.frames import TRIAL_FRAMES, beginning, fewest_frames, trial_frames
from rnn_export.export.verify.reports import as_one, with_figures
from rnn_export.export.verify.scales import CHANGE, CHANGES, scales_of
from rnn_export.export.verify.second_opinion import second_opinion
from rnn_export.platform.arrays import Array, Arrays
from rnn_export.runtime.backends.onnxruntime.library import make_session
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.closed_loop import ClosedLoop, Trace
from rnn_export.runtime.replay.drift import Drift, ParityReport
from rnn_export.runtime.replay.drivers import StepDriver
from rnn_export.runtime.replay.figures import Accept
from rnn_export.runtime.replay.golden import Golden

# Operators that round nothing.
EXACT = {
    *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Concat", "Gather"),
    *("GatherElements", "GatherND", "ScatterElements", "ScatterND", "Pad", "Expand", "Tile", "Shape", "Size"),
    *("Cast", "Where", "Relu", "Constant", "ConstantOfShape", "Range"),
}


@dataclass(frozen=True)
class FileStep:
    """The file as a step of the contract: its outputs are the truth."""

    original: Original
    layout: Layout
    spec: StreamSpec
    initial: Arrays

    def trace(self, loop: ClosedLoop) -> Trace:
        """Run the file, its states fed back by its own names and in its own layout."""
        return loop.run(StepDriver(self.spec, row_by_row(self.spec, self._call), self.states(loop.rows)))

    def states(self, rows: int) -> dict[str, Array]:
        """The initial states, (rows, ...)."""
        return {s.name: np.repeat(self.initial[s.name][None], rows, 0) for s in self.spec.states}

    def _call(self, feed: dict[str, Array]) -> dict[str, Array]:
        layout = self.layout
        given = self.original({t.name: t.to_file(feed[t.name]) for t in (*layout.inputs, *layout.states)})
        results = {t.name: t.from_file(given[t.name]) for t in layout.outputs}
        pairs = zip(layout.pairs, layout.states, strict=True)
        return {**results, **{pair.output: state.from_file(given[pair.output]) for pair, state in pairs}}


def verify_file(
    file: FileStep,
    engines: Sequence[Engine],
    step: bytes,
    recording: Mapping[str, Array] | None,
    steps: int,
    tolerance: Tolerance,
    progress: Callable[[str], None],
    precision: str,
    accept: Accept | None,
) -> tuple[ParityReport, Golden]:
    """Hold `engines` and ONNX's reference evaluator to the file; raises ParityError. As `verify_model` does."""
    progress("reference")
    spec = file.spec
    frames = max(steps * spec.chunk, fewest_frames(spec))
    noise = Noise(spec, step)
    inputs = noise.frames(frames) if recording is None else beginning(spec, recording, frames)
    golden = _golden(file, inputs, tolerance, "noise" if recording is None else "recording")
    loop = ClosedLoop(spec, inputs)
    check_whole(file.original, file.layout, file.initial, loop, golden.outputs, golden.tolerance)
    trials, failures = (None, {}) if _has_unknown_range(noise) else _trials(file, step, noise, golden)
    vectors = replace(golden, precision=precision, trials=trials)
    reports = [replay_golden(e, vectors, progress if e is engines[0] else lambda check: None) for e in engines]
    for report in reports:
        report.raise_for_failure(f"{_of_rows(report)}{CONSEQUENCE}")
    progress("onnx.reference")
    second: list[Drift] = []
    try:
        second = second_opinion(spec, file.states(golden.rows), step, golden)
    except ExportError as error:
        # It is a second one: what ONNX's own evaluator cannot read, or is not written out, has the first.
        failures["onnx.reference"] = str(error).removesuffix(f". {CONSEQUENCE}").removesuffix(".")
    report = as_one(with_figures(reports, engines, vectors, accept))
    report = replace(report, drifts=(*report.drifts, *second), not_judged={**failures, **report.not_judged})
    report.raise_for_failure(CONSEQUENCE)
    return report, vectors


def _of_rows(report: ParityReport) -> str:
    """Advice for a stream that is right alone, and wrong among others."""
    if {d.check for d in report.drifts if d.step is not None} <= {"batch-invariance", "pool", "pool end"}:
        return (
            "In the file one row of a batch changes what another gives: say that it takes one stream, --shape "
            "NAME=1,... for each input with a batch (shapes={NAME: (1, ...)}). "
        )
    return ""


def _has_unknown_range(noise: Noise) -> bool:
    return any(t.dtype.startswith(("int", "uint")) and noise.rows[t.name] is None for t in noise.spec.inputs)


def _golden(file: FileStep, inputs: Mapping[str, Array], tolerance: Tolerance, kind: str) -> Golden:
    loop = ClosedLoop(file.spec, inputs)
    trace = file.trace(loop)
    for name, value in {**trace.outputs, **trace.states}.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ExportError(
                f"{file.original.path} itself gives NaN or Inf in {name!r} on {kind}, so that nothing can be held to "
                "it: give a recording of what it is made for (data=, --data).",
                id="onnx-file-gives-nan",
            )
    at = np.arange(1, loop.frames // file.spec.chunk + 1) * file.spec.chunk
    return Golden(inputs, trace.outputs, trace.states, at, tolerance, kinds=(kind,) * loop.rows)


def _trials(file: FileStep, step: bytes, noise: Noise, golden: Golden) -> tuple[Golden, dict[str, str]]:
    """Vectors with a row for each kind of input; and by kind that the file fails on, the error."""
    spec = file.spec
    frames = trial_frames(spec, TRIAL_FRAMES // (1 if spec.has_time else 2), golden.frames)
    kinds, inputs = noise.trials(frames)
    if golden.kinds[0] not in kinds:
        last = ClosedLoop(spec, golden.inputs).of_rows(slice(1)).cut(golden.frames - frames, golden.frames)
        kinds, inputs = (*kinds, golden.kinds[0]), {n: np.concatenate([a, last[n]]) for n, a in inputs.items()}
    loop, failures = ClosedLoop(spec, inputs), dict[str, str]()
    for row, kind in enumerate(kinds):
        try:
            file.trace(loop.of_rows(slice(row, row + 1)))
        except ExportError as error:
            if kind in ORDINARY:
                raise
            failures[kind] = f"the file fails on it: {error.__cause__}"
    loop = loop.of_rows(np.array([row for row, kind in enumerate(kinds) if kind not in failures]))
    outputs = file.trace(loop).outputs
    timed = {t.name for t in spec.outputs if spec.timed(t)}
    scales = scales_of(_steps_of(file, step, loop), _changed(file, step, loop), timed)
    left = tuple(kind for kind in kinds if kind not in failures)
    at = np.array([frames])
    return Golden(loop.inputs, outputs, {}, at, golden.tolerance, kinds=left, scales=scales, by_entry=True), failures


def _changed(file: FileStep, step: bytes, loop: ClosedLoop) -> Iterator[Mapping[str, Array]]:
    """Outputs of the step with slightly changed weights, inputs and operator results."""
    for seed in range(CHANGES):
        random = np.random.default_rng(seed)
        inputs = {name: _moved(random, array) for name, array in loop.inputs.items()}
        yield _steps_of(file, _with_changes(step, random), ClosedLoop(loop.spec, inputs))


def _steps_of(file: FileStep, step: bytes, loop: ClosedLoop) -> Mapping[str, Array]:
    spec, session = file.spec, make_session(step)
    names = [value.name for value in session.get_outputs()]

    def call(feed: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(None, feed), strict=True))

    return loop.run(StepDriver(spec, row_by_row(spec, call), file.states(loop.rows))).outputs


def _moved(random: np.random.Generator, array: Array) -> Array:
    if array.dtype.kind != "f":
        return array
    moved: Array = (array * (1 + CHANGE * random.choice((-1.0, 1.0), array.shape))).astype(array.dtype)
    return moved


def _is_power(value: ir.Value, powers: set[ir.Value | None]) -> bool:
    """True for a whole exponent: it has no last bits, and negative numbers need it."""
    return value in powers and value.const_value is not None and not (value.const_value.numpy() % 1).any()


def _with_changes(step: bytes, random: np.random.Generator) -> bytes:
    """The step with other weights and a factor behind each operator that rounds, those of recurrent ones too."""
    try:
        model = parse(rewrite(step, DecomposeRecurrent()))
    except ExportError:
        model = parse(step)
    powers = {node.inputs[1] for node in model.graph.all_nodes() if node.op_type == "Pow"}
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.dtype is ir.DataType.FLOAT and not _is_power(value, powers):
            value.const_value = ir.tensor(_moved(random, value.const_value.numpy()), name=value.name)
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    floats = {v.name for v in (*proto.graph.value_info, *proto.graph.output) if v.type.tensor_type.elem_type == 1}
    nodes = []
    for number, node in enumerate(proto.graph.node):
        nodes.append(node)
        if node.op_type in EXACT or node.op_type in ("If", "Loop", "Scan"):
            continue
        for place, name in enumerate(node.output):
            if name in floats:
                # Activations of gates are computed to an ulp of 1.
                op, size = ("Add", 0.0) if node.op_type in ("Sigmoid", "Tanh", "Softmax") else ("Mul", 1.0)
                factor, inner = f"change/{number}/{place}", f"{name}/exact"
                change = np.array(size + CHANGE * random.choice((-1.0, 1.0)), np.float32)
                proto.graph.initializer.append(onnx.numpy_helper.from_array(change, factor))
                node.output[place] = inner
                nodes.append(onnx.helper.make_node(op, [inner, factor], [name]))
    changed = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:], proto.graph.value_info[:]
    proto.graph.node.extend(changed)
    return bytes(proto.SerializeToString())
