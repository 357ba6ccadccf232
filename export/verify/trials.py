"""Run the user's own module on each kind of input, and measure the scale to hold each value to."""

from __future__ import annotations

import numpy as np

from rnn_export.contract.parity_json import ORDINARY
from rnn_export.contract.precision import Tolerance
from rnn_export.errors import AssumptionBroken, ExportError
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.changes import changed_outputs
from rnn_export.export.verify.frames import trial_frames
from rnn_export.export.verify.kinds import trial_inputs
from rnn_export.export.verify.reference import own_trace
from rnn_export.export.verify.scales import CHANGES, scales_of
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.golden import Golden


def trial_vectors(
    model: StreamingModel, golden: Golden, tolerance: Tolerance, frames: int, changes: int = CHANGES
) -> tuple[Golden, dict[str, str]]:
    """Golden vectors with a row for each kind of input; and by kind that the module fails on, the error.

    Args:
        golden: of ordinary input; the last frames of a recording are a kind of their own.
        frames: of each row, beside those of the delay, where `golden` has so many.
        changes: the number of changed modules to measure scales.

    Raises ExportError if the module fails on noise.
    """
    spec = model.spec
    # A module that takes one frame a call is called for every frame of every copy.
    frames //= 1 if spec.has_time else 2
    frames = trial_frames(spec, frames, golden.frames, model.shortest)
    kinds, inputs = trial_inputs(model, frames)
    if golden.kinds[0] not in kinds:
        loop = ClosedLoop(spec, golden.inputs).of_rows(slice(1))
        last = loop.cut(golden.frames - frames, golden.frames)
        kinds, inputs = (*kinds, golden.kinds[0]), {n: np.concatenate([a, last[n]]) for n, a in inputs.items()}
    loop = ClosedLoop(spec, inputs)
    try:
        failures: dict[str, str] = {}
        outputs = own_trace(model, loop).outputs
    except (ExportError, AssumptionBroken):
        failures = _failures(model, loop, kinds)
        loop = loop.of_rows(np.array([row for row, kind in enumerate(kinds) if kind not in failures]))
        outputs = own_trace(model, loop).outputs
    kinds, scales = (
        tuple(kind for kind in kinds if kind not in failures),
        scales_of(outputs, changed_outputs(model, loop, changes), {t.name for t in spec.outputs if spec.timed(t)}),
    )
    at = np.array([frames])
    return Golden(loop.inputs, outputs, {}, at, tolerance, kinds=kinds, scales=scales, by_entry=True), failures


def _failures(model: StreamingModel, loop: ClosedLoop, kinds: tuple[str, ...]) -> dict[str, str]:
    """By kind that the user's module fails on, the error; ordinary ones must do."""
    found = {}
    for row, kind in enumerate(kinds):
        try:
            own_trace(model, loop.of_rows(slice(row, row + 1)))
        except AssumptionBroken as error:
            found[kind] = f"on it {error.at} is {error.value}, other than was assumed"
        except ExportError as error:
            if kind in ORDINARY:
                raise
            found[kind] = f"the model fails on it: {error.__cause__}"
    return found
