"""The model to work with: whatever a call changes in it, the user's own stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.program.outside import Outside, outside_of


def copied(model: nn.Module) -> tuple[nn.Module, Outside]:
    """Deep copies of `model` and of what its code reads outside of it; raises LiftError where there can be none."""
    values = [value for module in model.modules() for value in vars(module).values()]
    # What a hook of torch's computed from parameters cannot be copied as it is, nor what only wraps a function, nor a
    # scripted one.
    made = {id(t): t.detach().clone() for t in values if isinstance(t, Tensor) and not t.is_leaf}
    functions = {id(f): f.__func__ for f in values if isinstance(f, staticmethod)}
    scripted = {id(f): _Scripted(f) for f in values if isinstance(f, torch.jit.ScriptFunction)}
    memo: dict[int, Any] = {**made, **functions, **scripted}
    try:
        return copy.deepcopy(model, memo), outside_of(model, memo)
    except Exception as error:  # the user's code may raise anything
        raise LiftError(f"the model cannot be copied, so it cannot be tried out: {first_line(error)}") from error


class _Scripted:
    """A scripted function, which holds nothing that a call changes, as one that is its own copy."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __deepcopy__(self, memo: dict[int, Any]) -> _Scripted:
        return self

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self.function(*args, **named)
