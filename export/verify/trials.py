"""What the user's own module gives on each kind of input, and the scale that each value is to be held to."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rnn_export.arrays import Array
from rnn_export.errors import AssumptionBroken, ExportError
from rnn_export.export.lift.program.fx import MOVING, SHAPE_ONLY, overloads
from rnn_export.export.lift.program.modes import SeesOperators
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.frames import trial_frames
from rnn_export.export.verify.kinds import trial_inputs
from rnn_export.export.verify.reference import own_trace
from rnn_export.export.verify.scales import CHANGE, CHANGES, scales_of
from rnn_export.parity_json import ORDINARY
from rnn_export.precision import Tolerance
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.golden import Golden

# These round nothing.
EXACT = MOVING | SHAPE_ONLY | overloads("copy_ gather index.Tensor index_select where.self masked_fill.Scalar relu")

# These are computed to an ulp of 1: ONNX Runtime's sigmoid never falls below 1.5e-8.
GATES = overloads("sigmoid sigmoid_ tanh tanh_ _softmax")


def trial_vectors(
    model: StreamingModel, golden: Golden, tolerance: Tolerance, frames: int
) -> tuple[Golden, dict[str, str]]:
    """Golden vectors with a row for each kind of input; and by kind that the module fails on, with what.

    Args:
        golden: of ordinary input; the last frames of a recording are a kind of their own.
        frames: of each row, beside those of the delay, where `golden` has so many.

    Raises ExportError where the module fails on noise.
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
        scales_of(model.spec, outputs, _changed(model, loop)),
    )
    return Golden(loop.inputs, outputs, {}, np.array([frames]), tolerance, kinds=kinds, scales=scales), failures


def _failures(model: StreamingModel, loop: ClosedLoop, kinds: tuple[str, ...]) -> dict[str, str]:
    """By kind that the user's module fails on, with what; ordinary ones must do."""
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


class _Changing(SeesOperators):
    """What each operator gives is a little different, as by another rounding: 1 - z may lose all that z has."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def change(self, value: Tensor, of_one: bool = False) -> None:
        if value.is_floating_point() or value.is_complex():
            changes = CHANGE * (torch.randint(2, value.shape, generator=self.generator) * 2 - 1)
            if of_one:
                value.add_(changes.to(value))
            else:
                value.mul_((1 + changes).to(value))

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        results = func(*args, **kwargs)
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        computes = any(isinstance(a, Tensor) for a in pytree.tree_leaves((args, kwargs)))
        if computes and not is_view and func not in EXACT:
            for value in pytree.tree_leaves(results):
                if isinstance(value, Tensor):
                    self.change(value, func in GATES)
        return results


def _changed(model: StreamingModel, loop: ClosedLoop) -> Iterator[Mapping[str, Array]]:
    """What a copy of the module gives, on as many rows, where all that is computed with is a little different."""
    for seed in range(CHANGES):
        changing, other = _Changing(seed), copy.deepcopy(model.original)
        # What is decided on an edge may be decided otherwise now.
        other.decisions = replace(other.decisions, checked=False)
        inputs = {name: torch.from_numpy(array.copy()) for name, array in loop.inputs.items()}
        for tensor in (*other.parameters(), *other.buffers(), *inputs.values()):
            changing.change(tensor.data)
        fed = {name: tensor.numpy() for name, tensor in inputs.items()}
        with changing:
            outputs = own_trace(replace(model, original=other), ClosedLoop(loop.spec, fed)).outputs
        yield outputs
