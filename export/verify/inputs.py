"""Inputs to verify a model on: seeded noise, or the first frames of a recording."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rnn_export.contract.spec import TensorSpec
from rnn_export.errors import ExportError
from rnn_export.export.lift.model.leaves import Leaf
from rnn_export.export.lift.model.sample_inputs import Noise
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.frames import (
    ROWS,
    beginning,
    fewest_frames,
    frames_beyond_context,
    frames_beyond_shortest,
)
from rnn_export.platform.arrays import Array

# Of whole sequences, as many times the shortest that the model takes.
WHOLE = 2


def inputs_to_verify(model: StreamingModel, recording: Mapping[str, Array] | None, steps: int) -> dict[str, Array]:
    """`steps` steps of every input, (rows, frames, ...): of the recording, as far as it goes, or noise where none is.

    There are at least as many as `fewest_frames` says. A model of whole sequences has a frame for each step, and
    `WHOLE` times as many as it needs.

    Raises SourceError where the recording is too short, and ExportError where no ids can be drawn.
    """
    rows = Noise(model.original).rows
    for tensor, leaf in zip(model.spec.inputs, model.original.inputs, strict=True):
        _refuse_one_id(tensor, leaf.example, rows)
    beyond = max(frames_beyond_context(model.spec), frames_beyond_shortest(model.spec, model.shortest))
    frames = max(steps * model.spec.chunk, fewest_frames(model.spec), beyond)
    if model.spec.sequence_only:
        frames = max(frames, WHOLE * model.shortest)
    if (most := model.spec.max_frames) is not None:
        frames = min(frames, most // model.spec.chunk * model.spec.chunk)
    return _noise(model, frames) if recording is None else beginning(model.spec, recording, frames)


def _noise(model: StreamingModel, frames: int) -> dict[str, Array]:
    noise, spec = Noise(model.original, seed=1), model.spec
    inputs = {}
    for tensor, leaf in zip(spec.inputs, model.original.inputs, strict=True):
        shape = (ROWS, *((tensor.frames_of(frames),) if spec.timed(tensor) else ()), *tensor.frame)
        inputs[tensor.name] = noise.shaped(example_to_draw(model, leaf), shape).to(leaf.example.dtype).numpy()
    return inputs


def example_to_draw(model: StreamingModel, leaf: Leaf) -> Tensor:
    """The example of an input; of flags, as the bools that they stand for."""
    return leaf.example.bool() if leaf.name in model.original.decisions.flags else leaf.example


def _refuse_one_id(tensor: TensorSpec, example: Tensor, rows: int | None) -> None:
    if tensor.dtype.startswith("int") and rows is None and int(example.max()) < 1:
        raise ExportError(
            f"input {tensor.name!r} is {tensor.dtype} and 0 everywhere in the example, and the model has no "
            "nn.Embedding that says which values it takes: put the largest one into the example.",
            id="whole-numbers-all-zero",
        )
