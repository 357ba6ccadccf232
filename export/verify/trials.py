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
from rnn_export.export.verify.inputs import fewest_frames
from rnn_export.export.verify.kinds import trial_inputs
from rnn_export.export.verify.reference import own_trace
from rnn_export.precision import Tolerance
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drift import ORDINARY
from rnn_export.runtime.replay.golden import Golden

# How often all that is computed with is changed, and by how much of itself: 32 roundings of fp32, and less than the
# tolerance, so that a decision that hangs on it is seen.
CHANGES, CHANGE = 3, 2.0**-18
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
    frames = max(
        (frames // spec.chunk + spec.settling_steps) * spec.chunk,
        fewest_frames(spec),
        -(-model.shortest // spec.chunk) * spec.chunk,
    )
    frames = min(frames, golden.frames)
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
    kinds, scales = tuple(kind for kind in kinds if kind not in failures), _scales(model, loop, outputs)
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


def _scales(model: StreamingModel, loop: ClosedLoop, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """By output, how far each value moves where weights, inputs and what operators give change, over how much they do.

    That is the scale of what it was computed from: of a difference of large numbers, theirs. Powers of two, and 0 where
    a value's own running magnitude is no smaller.
    """
    moved = {name: np.zeros(value.shape) for name, value in outputs.items()}
    for other in _changed(model, loop):
        for name, value in outputs.items():
            moved[name] = np.maximum(moved[name], _distance(other[name].astype(float), value.astype(float)) / CHANGE)
    found = {}
    for tensor in model.spec.outputs:
        value, far = outputs[tensor.name], moved[tensor.name]
        own = np.where(np.isfinite(value), np.abs(value.astype(float)), 0.0)
        own = np.maximum.accumulate(own, 1) if model.spec.timed(tensor) else own
        with np.errstate(divide="ignore", over="ignore"):
            found[tensor.name] = np.where(far > own, np.exp2(np.ceil(np.log2(far))), 0.0).astype(np.float32)
    return found


def _distance(a: Array, b: Array) -> Array:
    """Inf where one of two values alone is a number, 0 where neither is."""
    with np.errstate(invalid="ignore"):
        apart = np.where(a == b, 0.0, np.abs(a - b))
    return np.where(np.isnan(b), 0.0, np.nan_to_num(apart, nan=np.inf, posinf=np.inf))


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
