"""Nothing ships unverified: the golden vectors come from the user's own module, called as the user calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from rnn_export.errors import ParityError, SourceError
from rnn_export.export.decompose import decompose
from rnn_export.models.axes import Noise
from rnn_export.models.lift import StreamingModel
from rnn_export.runtime.backends import Array
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.golden import Golden, replay
from rnn_export.runtime.parity import Drift, ParityReport, Tolerance, drift
from rnn_export.runtime.ports import canonical, graph_layout
from rnn_export.spec import TIME, TensorSpec

ROWS = 2
# onnx.reference is plain Python.
REFERENCE_FRAMES = 16


def verify(
    model: StreamingModel,
    engine: Engine,
    step_graph: bytes,
    recording: Mapping[str, Array] | None,
    frames: int,
    tolerance: Tolerance,
    progress: Callable[[str], None],
) -> tuple[ParityReport, Golden]:
    """Hold the lifted model, ONNX's reference evaluator and `engine` to the user's module; raises ParityError.

    `recording` by input is (rows, frames, ...); without it seeded noise is used.
    """
    progress("reference")
    with torch.no_grad():
        golden, lifted = _golden(model, recording, frames, tolerance)
    consequence = "Nothing was written."
    ParityReport("torch", "cpu", golden.frames, golden.rows, tolerance, lifted).raise_for_failure(
        "The lifted model itself is not the model, so this is a case that lifting gets wrong. " + consequence
    )
    report = replay(engine, golden, progress)
    progress("onnx.reference")
    report = replace(report, drifts=(*lifted, *report.drifts, *_second_opinion(model, step_graph, golden)))
    report.raise_for_failure(consequence)
    return report, golden


def _golden(
    model: StreamingModel, recording: Mapping[str, Array] | None, frames: int, tolerance: Tolerance
) -> tuple[Golden, tuple[Drift, ...]]:
    """What the user's own module gives, and how far the lifted one is from it in the same closed loop."""
    inputs = _noise(model, frames) if recording is None else _shortened(model, recording, frames)
    outputs, states = _by_lifted(model, inputs)
    own = _by_original(model, inputs)
    at = np.arange(1, next(iter(states.values())).shape[1] + 1) * model.spec.chunk if states else None
    length = _frames(model, inputs)
    at = np.array([length]) if at is None else at
    golden = Golden(inputs, own, states, at, tolerance)
    drifts = []
    for tensor in model.spec.outputs:
        got, want = outputs[tensor.name], own[tensor.name]
        timed = _timed(model, tensor)
        steps = np.arange(1, length + 1) if timed else at[-1:]
        drifts.append(
            drift(
                "lifted",
                tensor.name,
                got if timed else got[:, None],
                want if timed else want[:, None],
                steps,
                tolerance,
            )
        )
    return golden, tuple(drifts)


def _timed(model: StreamingModel, tensor: TensorSpec) -> bool:
    return not model.spec.has_time or tensor.axis(TIME) is not None


def _frames(model: StreamingModel, inputs: Mapping[str, Array]) -> int:
    return int(next(inputs[t.name].shape[1] for t in model.spec.inputs if _timed(model, t)))


def _noise(model: StreamingModel, frames: int) -> dict[str, Array]:
    noise = Noise(model.original, seed=1)
    frames = max(frames // model.spec.chunk, 1) * model.spec.chunk
    inputs = {}
    for tensor, leaf in zip(model.spec.inputs, model.original.inputs, strict=True):
        shape = (ROWS, *((frames,) if _timed(model, tensor) else ()), *tensor.frame)
        sized = leaf.example.new_zeros(shape) + (leaf.example.max() if not leaf.example.is_floating_point() else 0)
        inputs[tensor.name] = noise.like(sized.to(leaf.example.dtype), {}).numpy()
    return inputs


def _shortened(model: StreamingModel, recording: Mapping[str, Array], frames: int) -> dict[str, Array]:
    """At most `frames` frames, whole chunks of them; a single row gets a second one that starts half-way."""
    length = min(_frames(model, recording), frames) // model.spec.chunk * model.spec.chunk
    if length < 1:
        raise SourceError(
            f"the recording has {_frames(model, recording)} frames: verification needs a chunk of {model.spec.chunk}."
        )
    inputs = {}
    for tensor in model.spec.inputs:
        a = recording[tensor.name]
        if a.shape[0] == 1:
            a = np.concatenate([a, np.roll(a, a.shape[1] // 2, 1) if _timed(model, tensor) else a])
        inputs[tensor.name] = np.ascontiguousarray(a[:, :length] if _timed(model, tensor) else a)
    return inputs


def _initial(model: StreamingModel, rows: int) -> list[Tensor]:
    return [model.initial[s.name].expand(rows, *s.row).contiguous() for s in model.spec.states]


def _frame(model: StreamingModel, inputs: Mapping[str, Array], start: int, stop: int) -> list[Tensor]:
    """The frames from `start` to `stop` in the layout of the model."""
    frame = []
    for tensor in model.spec.inputs:
        piece = inputs[tensor.name]
        piece = piece[:, start:stop] if _timed(model, tensor) else piece
        piece = piece if model.spec.has_time else piece[:, 0]
        frame.append(torch.from_numpy(graph_layout(piece, tensor)))
    return frame


def _joined(model: StreamingModel, by_step: list[list[Array]]) -> dict[str, Array]:
    """Outputs by name from those of each step, in canonical form."""
    outputs = {}
    for i, tensor in enumerate(model.spec.outputs):
        pieces = [canonical(step[i], tensor) for step in by_step]
        if not _timed(model, tensor):
            outputs[tensor.name] = pieces[-1]
        else:
            outputs[tensor.name] = np.concatenate(pieces, 1) if model.spec.has_time else np.stack(pieces, 1)
    return outputs


def _by_lifted(model: StreamingModel, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Outputs and the states after each step of the lifted module, state fed back."""
    spec, rows = model.spec, next(iter(inputs.values())).shape[0]
    states, outputs, after = _initial(model, rows), [], []
    for start in range(0, _frames(model, inputs), spec.chunk):
        results = model.module(*_frame(model, inputs, start, start + spec.chunk), *states)
        states = list(results[len(spec.outputs) :])
        outputs.append([t.numpy() for t in results[: len(spec.outputs)]])
        after.append([t.numpy() for t in states])
    return _joined(model, outputs), {
        s.name: np.stack([step[i] for step in after], 1) for i, s in enumerate(spec.states)
    }


def _by_original(model: StreamingModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of the user's own module: one call over the whole sequence, or a call for each frame."""
    spec, original = model.spec, model.original
    rows, frames = next(iter(inputs.values())).shape[0], _frames(model, inputs)
    initial = dict(zip([s.name for s in spec.states], _initial(model, rows), strict=True))
    states = [
        initial[leaf.name].movedim(0, axis) for leaf, axis in zip(original.states, model.axes.state_batch, strict=True)
    ]
    outputs = []
    size = frames if spec.has_time else 1
    for start in range(0, frames, size):
        results = original(*_frame(model, inputs, start, start + size), *states)
        states = list(results[len(spec.outputs) :])
        outputs.append([t.numpy() for t in results[: len(spec.outputs)]])
    return _joined(model, outputs)


def _second_opinion(model: StreamingModel, step_graph: bytes, golden: Golden) -> list[Drift]:
    """The first frames on onnx.reference, which ignores `activations`: so on the decomposed graph."""
    spec = model.spec
    evaluator = ReferenceEvaluator(onnx.load_from_string(decompose(step_graph)))
    states = [t.numpy() for t in _initial(model, golden.rows)]
    frames = min(golden.frames, max(REFERENCE_FRAMES, spec.chunk)) // spec.chunk * spec.chunk
    outputs = []
    for start in range(0, frames, spec.chunk):
        frame = [t.numpy() for t in _frame(model, golden.inputs, start, start + spec.chunk)]
        names = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
        results = evaluator.run(None, dict(zip(names, [*frame, *states], strict=True)))
        if not isinstance(results, list):
            raise ParityError("onnx.reference gave no list of outputs.")
        states = results[len(spec.outputs) :]
        outputs.append(results[: len(spec.outputs)])
    given = _joined(model, outputs)
    return [
        drift(
            "onnx.reference",
            t.name,
            given[t.name],
            golden.outputs[t.name][:, :frames],
            np.arange(1, frames + 1),
            golden.tolerance,
        )
        for t in spec.outputs
        if _timed(model, t)
    ]
