"""The frames to verify a model on, and a recording cut to them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import SourceError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.replay.closed_loop import ClosedLoop

ROWS = 2
# With fewer steps the state would hardly be fed back.
FEWEST_STEPS = 4
# Of each kind of input, beside those of the delay.
TRIAL_FRAMES = 64


def fewest_frames(spec: StreamSpec) -> int:
    """Frames of which at least `FEWEST_STEPS` steps give every output."""
    return (FEWEST_STEPS + spec.settling_steps) * spec.chunk


def frames_beyond_context(spec: StreamSpec) -> int:
    """Frames of which at least `FEWEST_STEPS` steps leave some of the first ones out of the attention window."""
    steps = 0 if spec.max_context is None else -(-spec.max_context // spec.chunk) + FEWEST_STEPS
    return steps * spec.chunk


def frames_beyond_shortest(spec: StreamSpec, shortest: int) -> int:
    """Frames among which sequences of `shortest` and more end at every remainder of a step."""
    return (-(-shortest // spec.chunk) + 1) * spec.chunk


def trial_frames(spec: StreamSpec, frames: int, most: int, shortest: int = 0) -> int:
    """`frames` of each kind of input and those of the delay, in whole steps, `shortest` at least and `most` at most."""
    steps = max(frames // spec.chunk + spec.settling_steps, -(-shortest // spec.chunk))
    return min(max(steps * spec.chunk, fewest_frames(spec)), most)


def beginning(spec: StreamSpec, recording: Mapping[str, Array], frames: int) -> dict[str, Array]:
    """Whole chunks; a single row gets a second one that starts half-way."""
    loop = ClosedLoop(spec, recording)
    there = min(loop.frames, frames)
    if there // spec.chunk * spec.chunk < fewest_frames(spec):
        late = f" after a delay of {spec.delay}" if spec.has_delay else ""
        raise SourceError(
            f"verification has {there} frames of the recording: it needs at least {fewest_frames(spec)}, "
            f"{FEWEST_STEPS} steps of {spec.chunk}{late}, to feed the state back.",
            id="verification-recording-short",
        )
    if loop.rows == 1:
        half = {t.name: t.frames_of(loop.frames // 2) for t in spec.inputs if spec.timed(t)}
        second = {n: np.roll(a, half[n], 1) if n in half else a for n, a in recording.items()}
        loop = ClosedLoop(spec, {n: np.concatenate([a, second[n]]) for n, a in recording.items()})
    return {n: np.ascontiguousarray(a) for n, a in loop.cut(0, there // spec.chunk * spec.chunk).items()}
