"""Finds write-only counters, read for their own next value alone: no states."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnn_export.export.lift.model.call.pytree import leaves_of
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.numbers.int_provenance import is_one
from rnn_export.export.lift.states.hidden_state import History


class _Asked(History):
    """Records in `asked` if an operator made a Python number of filled tensors."""

    asked = False

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        fed = any(self.filled(t) for t in leaves_of((args, kwargs)))
        results = super().see(func, args, kwargs)
        self.asked = self.asked or (fed and not leaves_of(results))
        return results


def unread_counters(flat: FlatModel, arguments: Sequence[Tensor]) -> list[str]:
    """The module states of one entry from which no output and no other state is made.

    A state with values of an input is none of them: a user may want to read it.
    """
    names = [leaf.name for leaf in flat.states]
    module_states = {flat.name_of(group) for group in flat.module_states}
    numbers = [leaf.name for leaf in flat.states if leaf.name in module_states and is_one(leaf.example)]
    fed = {leaf.name for leaf in flat.inputs} | (set(names) - set(numbers))
    while numbers and (more := _reached(flat, fed, arguments)[1] - fed):
        fed |= more
    numbers = [name for name in numbers if name not in fed]
    goes = {name: _reached(flat, {name}, arguments) for name in numbers}
    # What goes to others alone that nothing reads is not read either.
    read = {name for name in names if name not in numbers}
    while more := {name for name in numbers if name not in read and (goes[name][0] or goes[name][1] & read)}:
        read |= more
    return [name for name in numbers if name not in read]


def _reached(flat: FlatModel, sources: Collection[str], arguments: Sequence[Tensor]) -> tuple[bool, set[str]]:
    """True if an output, or a number of Python's, is made of `sources`; and the states made of them."""
    called, history = copy.deepcopy(flat), _Asked()
    given = [t.clone() for t in arguments]
    history.begin([t for leaf, t in zip((*flat.inputs, *flat.states), given, strict=True) if leaf.name in sources])
    with torch.no_grad(), history:
        results = called(*given)
    outputs, after = results[: len(flat.outputs)], results[len(flat.outputs) :]
    filled = {leaf.name for leaf, t in zip(flat.states, after, strict=True) if history.filled(t)}
    return history.asked or any(history.filled(t) for t in outputs), filled
