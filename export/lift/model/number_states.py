"""Keeps the non-tensor leaves of declared states, such as numbers, in an attribute of the model between calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError
from rnn_export.export.lift.model.call.pytree import leaves_by_path, suffix
from rnn_export.export.lift.model.module_attributes import AttributePath
from rnn_export.export.lift.model.numbers.int_provenance import keep_number

NUMBERS = (int, float, torch.SymInt, torch.SymFloat)
# Leaves of declared states that are no tensors, and that a call may change.
PLAIN = (*NUMBERS, complex, str, bytes)
# The attribute that holds these, by name: no user's code has it, and it is no part of the name of what stands in it.
HELD = ""


def held_in(model: nn.Module) -> dict[str, Any]:
    """The values that `model` holds, by name."""
    held: dict[str, Any] = vars(model).get(HELD, {})
    return held


def hold(model: nn.Module, held: dict[str, Any], back: Mapping[str, Any]) -> None:
    """Let `model` hold `held` at first; raises LiftError if it cannot, and other values come `back`."""
    if not isinstance(model, torch.jit.ScriptModule):
        vars(model)[HELD] = held
    elif moved := next((path for path, leaf in held.items() if back[path] != leaf), None):
        # A copy of it has no other attributes than its own.
        raise LiftError(
            f"{moved!r} goes into a ScriptModule as {held[moved]!r} and comes back as {back[moved]!r}, but only a "
            f"module in Python can have a state that is a number. Make it a tensor: torch.tensor({held[moved]!r}).",
            id="script-number-state",
        )


def next_of(held: Mapping[str, Any], back: Mapping[str, Any]) -> dict[str, Any]:
    """The next values of `held`, taken from `back`; raises LiftError if one is no number and has changed."""
    for name, before in held.items():
        after = back.get(name)
        if isinstance(before, (*NUMBERS, Tensor)) and isinstance(after, (*NUMBERS, Tensor)):
            continue
        if type(after) is not type(before) or after != before:
            comes = f"comes back as {after!r}" if name in back else "does not come back"
            raise LiftError(
                f"{name!r} goes in as {before!r} with a declared state, and {comes}: every part of a state that "
                "calls change must be a tensor or a number, which a graph can compute. Return it as a tensor, "
                "torch.tensor(0), or as a number (of a word, its index in a list); or return it as it came.",
                id="state-part-not-numeric",
            )
    return {name: back[name] for name in held}


def next_value(path: AttributePath, model: nn.Module, fed: Tensor) -> Tensor:
    """The value at `path` after a call, as a tensor like `fed`."""
    value = path.get(model)
    if value is None:
        raise LiftError(
            f"{str(path)!r} is set to None by a call: a state must be a tensor of one shape.", id="state-part-set-none"
        )
    if isinstance(value, Tensor):
        return value
    made = torch.full_like(fed, value)
    keep_number(made, value)
    return made


def paths_of(value: Any) -> list[tuple[str, Any]]:
    """The leaves of a value, each with its name suffix."""
    return [(suffix(path), leaf) for path, leaf in leaves_by_path(value)]


def zero_like(leaf: Any) -> Any:
    """Zeros like a tensor, or a zero like a number."""
    return torch.zeros_like(leaf) if isinstance(leaf, Tensor) else type(leaf)(0)
