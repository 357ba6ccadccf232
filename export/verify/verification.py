"""Nothing ships unverified: the golden vectors come from the user's own module, called as the user calls it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from rnn_export.arrays import Array
from rnn_export.errors import ExportError, RnnExportError, SourceError, first_line
from rnn_export.export.graph.passes.decompose import decompose
from rnn_export.export.lift.api import StreamingModel
from rnn_export.export.lift.capture import BatchFirst
from rnn_export.export.lift.noise import Noise
from rnn_export.export.lift.program.signature import FlatModel
from rnn_export.export.verify.divergence import first_departure
from rnn_export.layout import canonical, in_graph_layout
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.drift import TOLERANCES, Drift, ParityReport, Tolerance, drift
from rnn_export.runtime.replay.golden import Golden, replay
from rnn_export.spec import StreamSpec, TensorSpec

Call = Callable[[list[Array]], list[Array]]

ROWS = 2
# With fewer calls the state would hardly be fed back.
CALLS = 4
# Noise is tried too where there is a recording: silence or a constant would prove little.
NOISE_FRAMES = 64
# onnx.reference is plain Python.
REFERENCE_FRAMES = 16
CONSEQUENCE = "Nothing was written."


def verify(
    model: StreamingModel,
    engines: Sequence[Engine],
    step_graph: bytes | None,
    recording: Mapping[str, Array] | None,
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
    if model.spec.sequence_only:
        return _whole_sequences(model, engines, recording, frames, tolerance, progress)
    exact = tolerance if precision == "fp32" else TOLERANCES["fp32"]
    golden, lifted = _golden(model, recording, frames, exact)
    _refuse_wrong_lifting(model, golden, lifted)
    if recording:
        noise, on_noise = _golden(model, None, min(frames, NOISE_FRAMES), exact)
        _refuse_wrong_lifting(model, noise, on_noise)
        noise = replace(noise, tolerance=tolerance, precision=precision)
        # What int8 was calibrated on may be nothing like noise.
        for engine in engines if precision != "int8" else ():
            replay(engine, noise).raise_for_failure(f"This was on noise, not on the recording. {CONSEQUENCE}")
    # The stages told are those of one backend, whose number the caller knows.
    vectors = replace(golden, tolerance=tolerance, precision=precision)
    reports = [replay(e, vectors, progress if e is engines[0] else lambda check: None) for e in engines]
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
    spec, frames = model.spec, golden.frames
    sizes = (spec.chunk, frames if spec.has_time else 1)
    where = ""
    for rows in _groups(model, golden.inputs):
        steps, calls = ([[*in_graph_layout(spec, rows, t, t + n).values()] for t in range(0, frames, n)] for n in sizes)
        where = where or first_departure(model, steps, calls, golden.tolerance)
    report.raise_for_failure(
        f"{where}The lifted step, before any export, is not the model: the tolerance is too tight, or the model has a "
        "memory over time that lifting did not see: take it as an argument, return it, and declare it as a state. "
        f"{CONSEQUENCE}"
    )


@contextlib.contextmanager
def _blamed(what: str) -> Iterator[None]:
    """An exception of somebody else's code as one line of ours."""
    try:
        yield
    except RnnExportError:
        raise
    except Exception as error:  # the model and onnx.reference may raise anything
        raise ExportError(f"{what}: {type(error).__name__}: {first_line(error)}. {CONSEQUENCE}") from error


def _golden(
    model: StreamingModel, recording: Mapping[str, Array] | None, frames: int, tolerance: Tolerance
) -> tuple[Golden, tuple[Drift, ...]]:
    """What the user's own module gives, and how far the lifted one is from it in the same closed loop.

    The module does not show the states that were lifted out of it: those are the lifted module's, which is held to it
    by the outputs, and by the states that both have.
    """
    spec, inputs = model.spec, _noise(model, frames) if recording is None else _shortened(model, recording, frames)
    length = _frames(spec, inputs)
    lifted = _closed_loop(spec, inputs, _torch_call(model.module), _initial(model, inputs), length, spec.chunk)
    own = _own(model, inputs, length)
    outputs = {t.name: own.outputs[t.name][:, : _given(spec, t, length)] for t in spec.outputs}
    at = np.arange(spec.chunk, length + 1, spec.chunk)
    golden = Golden(inputs, outputs, lifted.states, at, tolerance)
    drifts = [_output_drift("lifted", spec, t, lifted.outputs, golden, length) for t in spec.outputs]
    # Steps of several frames round up how late a state is: then the module's own has seen more.
    for name, want in {} if spec.delay and spec.chunk > 1 else own.states.items():
        last = want.shape[1]
        got, steps = lifted.states[name][:, -last:], at[-last:]
        drifts.append(drift("lifted", name, got, want, steps, tolerance))
    return golden, tuple(drifts)


def _given(spec: StreamSpec, tensor: TensorSpec, frames: int) -> int | None:
    """How many frames of an output `frames` frames of the input give; None where it has no time."""
    return (frames - spec.delay) // tensor.every if spec.timed(tensor) else None


def _own(model: StreamingModel, inputs: Mapping[str, Array], frames: int) -> _Loop:
    """What the user's own module gives: a sequence in one call, frames in one call each, its buffers its own affair."""
    spec, original = model.spec, model.original
    rows, buffers = _rows(inputs), _buffers(model)
    loops = []
    for some in _groups(model, inputs):
        module = copy.deepcopy(original)
        explicit = _initial(model, some)[: len(original.states)]
        size = frames if spec.has_time else 1
        loop = _closed_loop(spec, some, _torch_call(BatchFirst(module, model.axes)), explicit, frames, size)
        left = {name: _held(module, model, name)[:, None] for name in buffers}
        loops.append(_Loop(loop.outputs, {**loop.states, **left}))
    return _Loop(_stacked([loop.outputs for loop in loops], rows), _stacked([loop.states for loop in loops], rows))


def _groups(model: StreamingModel, inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The rows, as many at once as the user's module takes: its buffers may have no other batch than the example's."""
    rows, first = _rows(inputs), model.original.inputs[0].example
    batch = first.shape[model.axes.input_batch[0]] if _buffers(model) else rows
    for start in range(0, rows, batch):
        yield {n: a[np.arange(start, start + batch) % rows] for n, a in inputs.items()}


def _rows(inputs: Mapping[str, Array]) -> int:
    return int(next(iter(inputs.values())).shape[0])


def _buffers(model: StreamingModel) -> list[str]:
    return [s.name for s in model.origins if s.kind == "buffer"]


def _stacked(groups: list[dict[str, Array]], rows: int) -> dict[str, Array]:
    return {name: np.concatenate([g[name] for g in groups])[:rows] for name in groups[0]}


def _held(module: FlatModel, model: StreamingModel, name: str) -> Array:
    """The rows that a buffer of the module holds now."""
    index = [s.name for s in model.spec.states].index(name)
    value = dict(module.model.named_buffers())[name]
    # One that has no batch axis in the module is of one stream.
    bare = value.dim() == len(model.spec.states[index].row)
    return (value[None] if bare else model.axes.states[index].rows(value)).numpy()


def _whole_sequences(
    model: StreamingModel,
    engines: Sequence[Engine],
    recording: Mapping[str, Array] | None,
    frames: int,
    tolerance: Tolerance,
    progress: Callable[[str], None],
) -> tuple[ParityReport, Golden]:
    """A model that needs whole sequences: sequences of several lengths, each as the module gives it."""
    spec = model.spec
    inputs = _noise(model, frames) if recording is None else _shortened(model, recording, frames)
    reports = []
    for length in sorted({_frames(spec, inputs), max(_frames(spec, inputs) * 2 // 3, 1)}):
        cut = {t.name: inputs[t.name][:, :length] if spec.timed(t) else inputs[t.name] for t in spec.inputs}
        golden = Golden(cut, _own(model, cut, length).outputs, {}, np.array([length]), tolerance)
        for engine in engines:
            reports.append(replay(engine, golden, progress))
            reports[-1].raise_for_failure(CONSEQUENCE)
    return reports[-1], golden


def _noise(model: StreamingModel, frames: int) -> dict[str, Array]:
    noise, spec = Noise(model.original, seed=1), model.spec
    frames = max(frames // spec.chunk * spec.chunk, _fewest(spec))
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


def _shortened(model: StreamingModel, recording: Mapping[str, Array], frames: int) -> dict[str, Array]:
    """At most `frames` frames, whole chunks of them; a single row gets a second one that starts half-way."""
    spec = model.spec
    length = min(_frames(spec, recording), frames) // spec.chunk * spec.chunk
    if length < _fewest(spec):
        late = f" after a delay of {spec.delay}" if spec.delay else ""
        raise SourceError(
            f"verification has {min(_frames(spec, recording), frames)} frames of the recording: it needs at least "
            f"{_fewest(spec)}, {CALLS} steps of {spec.chunk}{late}, to feed the state back."
        )
    inputs = {}
    for tensor in spec.inputs:
        a = recording[tensor.name]
        if a.shape[0] == 1:
            a = np.concatenate([a, np.roll(a, a.shape[1] // 2, 1) if spec.timed(tensor) else a])
        inputs[tensor.name] = np.ascontiguousarray(a[:, :length] if spec.timed(tensor) else a)
    return inputs


def _fewest(spec: StreamSpec) -> int:
    """Frames that give outputs from `CALLS` steps."""
    return (CALLS + -(-spec.delay // spec.chunk)) * spec.chunk


def _frames(spec: StreamSpec, inputs: Mapping[str, Array]) -> int:
    return int(next(inputs[t.name].shape[1] for t in spec.inputs if spec.timed(t)))


# --- the closed loop


@dataclass(frozen=True)
class _Loop:
    """Outputs in canonical form, and states by name (rows, calls, ...)."""

    outputs: dict[str, Array]
    states: dict[str, Array]


def _closed_loop(
    spec: StreamSpec, inputs: Mapping[str, Array], call: Call, states: list[Array], frames: int, size: int
) -> _Loop:
    """Call `call(inputs..., states...)` for each `size` frames and feed the states that it gives back to it."""
    outputs, after = [], []
    for start in range(0, frames, size):
        results = call([*in_graph_layout(spec, inputs, start, start + size).values(), *states])
        outputs.append(results[: len(spec.outputs)])
        states = results[len(spec.outputs) :]
        after.append(states)
    by_name = {s.name: np.stack([step[i] for step in after], 1) for i, s in enumerate(spec.states[: len(states)])}
    return _Loop(_joined(spec, outputs), by_name)


def _joined(spec: StreamSpec, by_call: list[list[Array]]) -> dict[str, Array]:
    """Outputs by name from those of each call, in canonical form."""
    outputs = {}
    for i, tensor in enumerate(spec.outputs):
        pieces = [canonical(given[i], tensor) for given in by_call]
        if not spec.timed(tensor):
            outputs[tensor.name] = pieces[-1]
        else:
            outputs[tensor.name] = np.concatenate(pieces, 1) if spec.has_time else np.stack(pieces, 1)
    return outputs


def _initial(model: StreamingModel, inputs: Mapping[str, Array]) -> list[Array]:
    rows = _rows(inputs)
    return [model.initial[s.name].expand(rows, *s.row).contiguous().numpy() for s in model.spec.states]


def _torch_call(module: Callable[..., tuple[Tensor, ...]]) -> Call:
    def call(arrays: list[Array]) -> list[Array]:
        with _blamed("the model fails on what it is verified on"), torch.no_grad():
            return [t.numpy() for t in module(*map(torch.from_numpy, arrays))]

    return call


def _second_opinion(model: StreamingModel, step_graph: bytes, golden: Golden) -> list[Drift]:
    """The first frames on onnx.reference, which ignores `activations`: so on the decomposed graph."""
    spec = model.spec
    evaluator = ReferenceEvaluator(onnx.load_from_string(decompose(step_graph)))
    names = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]

    def call(arrays: list[Array]) -> list[Array]:
        with _blamed("onnx.reference, the second opinion, cannot run the graph"):
            results: list[Array] = evaluator.run(None, dict(zip(names, arrays, strict=True)))  # type: ignore[assignment]
        return results

    frames = min(golden.frames, max(REFERENCE_FRAMES, _fewest(spec))) // spec.chunk * spec.chunk
    loop = _closed_loop(spec, golden.inputs, call, _initial(model, golden.inputs), frames, spec.chunk)
    calls = frames // spec.chunk
    outputs = [t for t in spec.outputs if spec.timed(t) or frames == golden.frames]
    return [
        *(_output_drift("onnx.reference", spec, t, loop.outputs, golden, frames) for t in outputs),
        *(
            drift("onnx.reference", name, got, golden.states[name][:, :calls], golden.at[:calls], golden.tolerance)
            for name, got in loop.states.items()
        ),
    ]


def _output_drift(
    check: str, spec: StreamSpec, tensor: TensorSpec, given: Mapping[str, Array], golden: Golden, frames: int
) -> Drift:
    """One output over the first `frames` frames; one without a time axis stands for all of them."""
    got, want = given[tensor.name], golden.outputs[tensor.name]
    if not spec.timed(tensor):
        return drift(check, tensor.name, got[:, None], want[:, None], np.array([frames]), golden.tolerance)
    want = want[:, : _given(spec, tensor, frames)]
    # The first frames of a delay are of no value.
    got = got[:, got.shape[1] - want.shape[1] :]
    steps = np.arange(spec.delay, frames, tensor.every) + tensor.every
    return drift(check, tensor.name, got, want, steps, golden.tolerance)
