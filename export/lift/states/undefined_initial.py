"""Refuses initial values of states that give NaN, such as probabilities at zero, divided by their sum."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rnn_export.errors import LiftError
from rnn_export.export.lift.axes.axes import Axes
from rnn_export.export.lift.model.flat_model import FlatModel

SAY = "say where it starts, initial={{{0!r}: tensor}}, one row of it (of a command, in what the factory returns third)"


def with_initial(flat: FlatModel, initial: Mapping[str, Any] | None) -> FlatModel:
    """`flat` whose numbers in declared states have their `initial` values, and tensors if the example gives NaN."""
    for name in flat.held:
        if initial and name in initial:
            flat.begin(name, initial[name])
    inputs = [leaf.example for leaf in flat.inputs]
    if not initial or not gives_nan(flat, [*inputs, *(leaf.example for leaf in flat.states)]):
        return flat
    declared = {
        leaf.name: _as_example(initial[leaf.name], leaf.example) for leaf in flat.states if leaf.name in initial
    }
    known = {name: value for name, value in declared.items() if value is not None}
    states = tuple(replace(leaf, example=known.get(leaf.name, leaf.example)) for leaf in flat.states)
    return flat.replace(states=states, seen={leaf.name: leaf.example[None] for leaf in states})


def _as_example(row: Any, example: Tensor) -> Tensor | None:
    """One row in the shape of `example`, whichever axis is its batch; None if it does not fit."""
    try:
        value = torch.as_tensor(row, dtype=example.dtype)
    except (TypeError, ValueError, RuntimeError):  # told where its shape is looked at
        return None
    for like in (value, *(value.unsqueeze(axis) for axis in range(value.dim() + 1))):
        if like.dim() == example.dim() and all(n in (1, m) for n, m in zip(like.shape, example.shape, strict=True)):
            return like.expand_as(example).contiguous()
    return None


def refuse_undefined_start(flat: FlatModel, axes: Axes, values: Mapping[str, Tensor]) -> None:
    """Raise LiftError if the model makes NaN of the `values` that its states start from, but not of others."""
    inputs, given = [leaf.example for leaf in flat.inputs], [leaf.example for leaf in flat.states]
    counts = [at.example_rows(t).shape[0] for t, at in zip(given, axes.states, strict=True)]
    rows = [values[s.name].expand(n, *values[s.name].shape) for s, n in zip(flat.states, counts, strict=True)]
    starts = [at.tensor(r).contiguous() for at, r in zip(axes.states, rows, strict=True)]
    if flat.states and gives_nan(flat, [*inputs, *starts]) and (found := _to_blame(flat, inputs, starts, given)):
        zeros = "" if bool(values[found].any()) else ", zeros,"
        raise LiftError(
            f"{found!r} is a state from whose first value{zeros} the model makes NaN, so no stream can start there: "
            f"{SAY.format(found)}.",
            id="state-starts-nan",
        )


def why_nan(flat: FlatModel, arguments: Sequence[Tensor]) -> str:
    """The cause of NaN from `arguments`: a tensor with NaN, or values without which there is none."""
    held = [*flat.model.named_parameters(), *flat.model.named_buffers()]
    if name := next((name for name, t in held if t.is_floating_point() and bool(t.isnan().any())), ""):
        return f"{name!r} holds NaN."
    inputs, states = arguments[: len(flat.inputs)], arguments[len(flat.inputs) :]
    if found := _to_blame(flat, inputs, states, states):
        if path := flat.module_state_at(found):
            return f"it makes none where {str(path)!r}, which it keeps, is 1: give that the value that it starts from."
        return f"it makes none where the state {found!r} is 1: {SAY.format(found)}."
    positive = [t.abs() + 0.1 if t.is_floating_point() else t for t in inputs]
    if not gives_nan(flat, [*positive, *states]):
        return "it makes none of positive inputs: give an example with values as in use."
    return "look for a division by zero, or for a logarithm or root of what is negative."


def _to_blame(flat: FlatModel, inputs: Sequence[Tensor], starts: Sequence[Tensor], given: Sequence[Tensor]) -> str:
    """The state whose value in `starts` alone gives NaN, beside others as `given` or ones; empty without one."""
    ones = [torch.ones_like(t) if t.is_floating_point() else t for t in given]
    for others in (given, ones):
        if not gives_nan(flat, [*inputs, *others]):
            pairs = enumerate(zip(flat.states, starts, strict=True))
            alone = (s.name for i, (s, t) in pairs if gives_nan(flat, [*inputs, *others[:i], t, *others[i + 1 :]]))
            return next(alone, "")
    return ""


def gives_nan(flat: FlatModel, tensors: Sequence[Tensor]) -> bool:
    """True if a call with `tensors`, none of which is written to, gives or leaves NaN."""
    with torch.no_grad():
        results = copy.deepcopy(flat)(*(t.clone() for t in tensors))
    return any(bool(t.isnan().any()) for t in results)
