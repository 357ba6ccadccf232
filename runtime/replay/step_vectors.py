"""The beginning of the golden vectors, laid out step by step, for a self-test that runs without Python."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rnn_export.contract.layout import graph_layout
from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.platform.arrays import Array
from rnn_export.runtime.replay.golden import Golden

# Numbers of the vectors that a microcontroller has room for.
MOST_VALUES = 32768
# Sequences that end, among them.
ENDS = 4


@dataclass(frozen=True)
class EndVectors:
    """Sequences of the first `frames` frames: outputs of each of their `steps` steps, one sequence after the other.

    `outputs` are by the number of the output in the contract, NaN where there is no frame.
    """

    frames: Sequence[int]
    steps: Sequence[int]
    outputs: Mapping[int, Array]

    @staticmethod
    def of(spec: StreamSpec, golden: Golden, steps: int) -> EndVectors | None:
        """A few that end within `steps` steps; None where there are none, or the contract has no `end`."""
        if spec.end is None:
            return None
        tensors = [(i, t) for i, t in enumerate(spec.outputs) if t.lengths and t.dtype.startswith("float")]
        fitting = [n for n in golden.ends if n // spec.chunk + spec.closing_steps(n) <= steps]
        known = [n for n in fitting if all(t.name in golden.ends[n] for _, t in tensors)]
        chosen = known[:: max(len(known) // ENDS, 1)][-ENDS:]
        if not chosen or not tensors:
            return None
        taken = [n // spec.chunk + spec.closing_steps(n) for n in chosen]
        outputs = {}
        for i, tensor in tensors:
            size, first = tensor.frames_of(spec.chunk), tensor.frames_of(spec.delay)
            pieces = []
            for frames, count in zip(chosen, taken, strict=True):
                whole = np.full((1, count * size + first, *tensor.frame), np.nan, tensor.dtype)
                ended = golden.ends[frames][tensor.name][:1]
                whole[:, first : first + ended.shape[1]] = ended
                pieces.append(_by_step(spec, tensor, whole[:, : count * size], count))
            outputs[i] = np.concatenate(pieces)
        return EndVectors(chosen, taken, outputs)


@dataclass(frozen=True)
class StepVectors:
    """The first `steps` steps of the first row, each tensor flat, in the order of the contract.

    `inputs` hold every step, `outputs` those after the first `silent_steps`; an output without a time axis is as of the
    last frame, and None where that is not among these steps. `states` are as of after the last step.
    """

    steps: int
    silent_steps: int
    inputs: Sequence[Array]
    outputs: Sequence[Array | None]
    states: Sequence[Array]
    ends: EndVectors | None

    @staticmethod
    def of(spec: StreamSpec, golden: Golden) -> StepVectors:
        """As many steps as `MOST_VALUES` allows, up to a checkpoint of `golden`."""
        a_step = sum(math.prod(t.frame) for t in (*spec.inputs, *spec.outputs)) * spec.chunk
        fitting = [k for k, at in enumerate(golden.at) if at // spec.chunk * a_step <= MOST_VALUES]
        last = fitting[-1] if fitting else 0
        steps = int(golden.at[last]) // spec.chunk
        silent = min(spec.settling_steps, steps)

        def output(tensor: TensorSpec) -> Array | None:
            frames = golden.outputs[tensor.name][:1]
            if spec.timed(tensor):
                skipped = spec.frames_out(tensor, silent * spec.chunk)
                return _by_step(spec, tensor, frames[:, skipped:], steps - silent)
            return frames.reshape(-1) if golden.at[last] == golden.frames else None

        inputs = [_by_step(spec, t, golden.inputs[t.name][:1], steps) for t in spec.inputs]
        states = [golden.states[s.name][0, last].reshape(-1) for s in spec.states]
        ends = EndVectors.of(spec, golden, steps)
        return StepVectors(steps, silent, inputs, [output(t) for t in spec.outputs], states, ends)


def _by_step(spec: StreamSpec, tensor: TensorSpec, frames: Array, steps: int) -> Array:
    """(1, time, ...) as the arrays of `steps` steps, in sequence; one zero where there are none."""
    if not spec.timed(tensor):
        return np.concatenate([graph_layout(frames, tensor).reshape(-1)] * steps)
    size = tensor.frames_of(spec.chunk)
    pieces = [frames[:, s * size : (s + 1) * size] for s in range(steps)]
    if not spec.has_time:
        pieces = [piece[:, 0] for piece in pieces]
    return np.concatenate([graph_layout(piece, tensor).reshape(-1) for piece in pieces] or [np.zeros(1, tensor.dtype)])
