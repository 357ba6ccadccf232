"""What a model is verified on: seeded noise, or the first frames of a recording."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from rnn_export.arrays import Array
from rnn_export.errors import ExportError, SourceError
from rnn_export.export.lift.noise import Noise
from rnn_export.export.lift.program.signature import Leaf
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.spec import StreamSpec, TensorSpec

ROWS = 2
# With fewer steps the state would hardly be fed back.
FEWEST_STEPS = 4


def inputs_to_verify(model: StreamingModel, recording: Mapping[str, Array] | None, steps: int) -> dict[str, Array]:
    """`steps` steps of every input, (rows, frames, ...): of the recording, as far as it goes, or noise where none is.

    There are at least as many as `fewest_frames` says. A model of whole sequences has a frame for each step.

    Raises SourceError where the recording is too short, and ExportError where no ids can be drawn.
    """
    rows = Noise(model.original).rows
    for tensor, leaf in zip(model.spec.inputs, model.original.inputs, strict=True):
        _refuse_one_id(tensor, leaf.example, rows)
    frames = max(steps * model.spec.chunk, fewest_frames(model.spec))
    return _noise(model, frames) if recording is None else _beginning(model.spec, recording, frames)


def fewest_frames(spec: StreamSpec) -> int:
    """Frames of which at least `FEWEST_STEPS` steps give every output."""
    return (FEWEST_STEPS + spec.settling_steps) * spec.chunk


def _noise(model: StreamingModel, frames: int) -> dict[str, Array]:
    noise, spec = Noise(model.original, seed=1), model.spec
    inputs = {}
    for tensor, leaf in zip(spec.inputs, model.original.inputs, strict=True):
        shape = (ROWS, *((frames,) if spec.timed(tensor) else ()), *tensor.frame)
        inputs[tensor.name] = noise.shaped(example_to_draw(model, leaf), shape).to(leaf.example.dtype).numpy()
    return inputs


def example_to_draw(model: StreamingModel, leaf: Leaf) -> Tensor:
    """The example of an input; of flags, as the bools that they stand for."""
    return leaf.example.bool() if leaf.name in model.original.decisions.flags else leaf.example


def _refuse_one_id(tensor: TensorSpec, example: Tensor, rows: int | None) -> None:
    if tensor.dtype.startswith("int") and rows is None and int(example.max()) < 1:
        raise ExportError(
            f"input {tensor.name!r} is {tensor.dtype} and 0 everywhere in the example, and the model has no "
            "nn.Embedding that says which values it takes: put the largest one into the example."
        )


def _beginning(spec: StreamSpec, recording: Mapping[str, Array], frames: int) -> dict[str, Array]:
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
