"""Keeps states that a model takes and returns as objects with the model, as module state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rnn_export.errors import Advice, LiftError
from rnn_export.export.lift.layers.bare_layers import Wrapped
from rnn_export.export.lift.model.call.carried_objects import Carrying
from rnn_export.export.lift.model.call.output_parts import OutputRef, key_of, object_in, result_parts
from rnn_export.export.lift.model.call.pytree import opened
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.script.script_modules import given_by_name


def carry_objects(call: Wrapped, states: Mapping[str, OutputRef]) -> tuple[Wrapped, dict[str, OutputRef]]:
    """`call` with its model keeping the declared `states` that are objects, and the other states."""
    if (bound := given_by_name(call.model, call.example)) is None:
        return call, dict(states)
    signature, given = bound
    left_out = [name for name in states if given.get(name) is None and name in signature.parameters]
    objects = {name for name in states if object_in(given.get(name)) is not None}
    if left_out:
        result = _called(call.model, {name: value for name, value in given.items() if name not in left_out})
        parts = result_parts(result)
        keys = {name: key_of(result, states[name]) for name in left_out}
        objects |= {name for name, key in keys.items() if key in parts and object_in(parts[key]) is not None}
    if not objects:
        return call, dict(states)
    refs = {name: states[name] for name in states if name in objects}
    example = {name: value for name, value in given.items() if name not in objects}
    model = Carrying(call.model, refs, given, signature)
    fed = model.signature.bind_partial()
    fed.arguments.update(example)
    if fed.kwargs:
        return call, dict(states)
    left = {name: ref for name, ref in states.items() if name not in objects}
    return Wrapped(model, fed.args, call.states, call.input_names), left


def _called(model: nn.Module, arguments: Mapping[str, Any]) -> Any:
    """The result of a copy of the model; None if it fails, which is reported at the next call."""
    try:
        with torch.no_grad():
            return copy.deepcopy(model)(**{name: opened(value) for name, value in copy.deepcopy(arguments).items()})
    except Exception:  # the user's code may raise anything
        return None


def refuse_left_out(flat: FlatModel) -> None:
    """Raise LiftError if the next call would take a result left out; for calls of one frame."""
    for name, kind in flat.left_out.items():
        raise LiftError(
            f"{name!r} of what the model returns is a {kind}, which the next call may take, and one call is one frame: "
            "it is a state.",
            advice=[Advice({"states": {name: name}}, "Declare it: {}.")],
            id="state-left-out",
        )
