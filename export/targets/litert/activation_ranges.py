"""Measure the ranges of the values of a step on a recording, for its scales in int8."""

from typing import Any

import numpy as np

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import ExportError
from rnn_export.platform.arrays import Array, Arrays
from rnn_export.runtime.backends.litert.library import new_interpreter, schema
from rnn_export.runtime.backends.litert.model import FILE, check_model
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drivers import StepDriver

Range = tuple[float, float]


def ranges(raw: bytes, spec: StreamSpec, initial: Arrays, recording: Arrays) -> dict[str, Range]:
    """The least and the largest of every float value of the step, by the name of its tensor; a state has one range.

    `recording` by input is (rows, frames, ...); each row is a stream from its start (`initial`, a row of every state),
    with the states that the step itself gives fed back. Raises ExportError where it has not one step.
    """
    watch = _Watch(raw, spec)
    loop, start = ClosedLoop(spec, recording), {name: value[None] for name, value in initial.items()}
    for row in range(loop.rows):
        for _ in loop.of_rows(slice(row, row + 1)).steps(StepDriver(spec, watch.step, start)):
            pass
    if not watch.seen:
        raise ExportError(
            f"the recording to calibrate on has not one whole step of {spec.chunk} frames.",
            id="litert-calibration-too-short",
        )
    for state in spec.states:
        # With one range a state goes out and in again without a rounding between.
        if state.input in watch.seen and state.output in watch.seen:
            both = _joined(watch.seen[state.input], watch.seen[state.output])
            watch.seen |= {state.input: both, state.output: both}
    return watch.seen


class _Watch:
    """The float step, and its tensors' values after each call."""

    def __init__(self, raw: bytes, spec: StreamSpec) -> None:
        file = check_model(FILE, raw, spec)
        (graph,), buffers = file.model.subgraphs, file.model.buffers
        self.interpreter: Any = new_interpreter(raw, 1, keeps_all=True)
        taken = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
        given = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]
        self.inputs = dict(zip(taken, file.inputs, strict=True))
        self.outputs = dict(zip(given, file.outputs, strict=True))
        self.watched = {
            number: tensor.name.decode()
            for number, tensor in enumerate(graph.tensors)
            if tensor.type == schema.TensorType.FLOAT32 and buffers[tensor.buffer].data is None
        }
        self.seen: dict[str, Range] = {}

    def step(self, feed: dict[str, Array]) -> dict[str, Array]:
        for name, number in self.inputs.items():
            self.interpreter.set_tensor(number, feed[name])
        self.interpreter.invoke()
        for number, name in self.watched.items():
            value = self.interpreter.get_tensor(number)
            finite = value[np.isfinite(value)]
            if finite.size:
                range_ = float(finite.min()), float(finite.max())
                self.seen[name] = _joined(self.seen.get(name, range_), range_)
        return {name: self.interpreter.get_tensor(number) for name, number in self.outputs.items()}


def _joined(a: Range, b: Range) -> Range:
    return min(a[0], b[0]), max(a[1], b[1])
