"""The golden vectors of a bundle as `golden.h`, for the self-test."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from rnn_export.arrays import Array
from rnn_export.export.targets.c.literals import array_literal
from rnn_export.layout import graph_layout
from rnn_export.runtime.build.native.names import C_TYPES
from rnn_export.runtime.build.native.template import render
from rnn_export.runtime.replay.golden import Golden
from rnn_export.spec import StreamSpec, TensorSpec

# Numbers of the golden vectors that a microcontroller has room for.
GOLDEN_VALUES = 32768


def golden_header(spec: StreamSpec, golden: Golden) -> str:
    """The first steps of the first row, as many as `GOLDEN_VALUES` allows, and the states after them."""
    a_step = sum(math.prod(t.frame) for t in (*spec.inputs, *spec.outputs)) * spec.chunk
    fitting = [k for k, at in enumerate(golden.at) if at // spec.chunk * a_step <= GOLDEN_VALUES]
    last = fitting[-1] if fitting else 0
    steps, late = int(golden.at[last]) // spec.chunk, spec.settling_steps
    values = {
        "steps": steps,
        "late": min(late, steps),
        "atol": repr(golden.tolerance.atol),
        "rtol": repr(golden.tolerance.rtol),
        "arrays": "\n".join(_arrays(spec, golden, last, steps, late)),
    }
    return render("rnn_export.export.targets.c", "templates/golden.h", "golden", values)


def _arrays(spec: StreamSpec, golden: Golden, last: int, steps: int, late: int) -> Iterator[str]:
    """Inputs of `steps` steps, outputs of those after the first `late`, and the states at the checkpoint `last`."""
    for i, tensor in enumerate(spec.inputs):
        yield _array(f"in{i}", _by_step(spec, tensor, golden.inputs[tensor.name][:1], steps), tensor.dtype)
    for i, tensor in enumerate(spec.outputs):
        frames = golden.outputs[tensor.name][:1]
        if spec.timed(tensor):
            skipped = spec.frames_out(tensor, late * spec.chunk)
            yield _array(f"out{i}", _by_step(spec, tensor, frames[:, skipped:], steps - late), tensor.dtype)
        elif golden.at[last] == golden.frames:
            yield f"#define GOLDEN_LAST{i}"
            yield _array(f"out{i}", frames, tensor.dtype)
    for i, state in enumerate(spec.states):
        yield _array(f"state{i}", golden.states[state.name][:1, last], state.dtype)


def _by_step(spec: StreamSpec, tensor: TensorSpec, frames: Array, steps: int) -> Array:
    """(1, time, ...) as the arrays of so many steps, one after the other; one zero where there are none."""
    if not spec.timed(tensor):
        return np.concatenate([graph_layout(frames, tensor).reshape(-1)] * steps)
    size = tensor.frames_of(spec.chunk)
    pieces = [frames[:, s * size : (s + 1) * size] for s in range(steps)]
    if not spec.has_time:
        pieces = [piece[:, 0] for piece in pieces]
    return np.concatenate([graph_layout(piece, tensor).reshape(-1) for piece in pieces] or [np.zeros(1, tensor.dtype)])


def _array(name: str, array: Array, dtype: str) -> str:
    return f"static const {C_TYPES[dtype]} golden_{name}[{array.size}] = {{\n{array_literal(array)}}};"
