"""Finds write-only counters, read for their own next value alone: no states."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.numbers.int_provenance import is_one
from rnn_export.export.lift.trace.dataflow import Dataflow


def unread_counters(flat: FlatModel, arguments: Sequence[Tensor]) -> list[str]:
    """The module states of one entry from which no output and no other state is made.

    A state with values of an input is none of them: a user may want to read it.
    """
    module_states = {flat.name_of(group) for group in flat.module_states}
    left = {leaf.name for leaf in flat.states if leaf.name in module_states and is_one(leaf.example)}
    if not left:
        return []
    given = [t.clone() for t in arguments]
    flow = Dataflow((leaf.name, t) for leaf, t in zip((*flat.inputs, *flat.states), given, strict=True))
    with torch.no_grad(), flow:
        results = copy.deepcopy(flat)(*given)
    outputs, after = results[: len(flat.outputs)], results[len(flat.outputs) :]
    made_of = {leaf.name: flow.names_of(t) for leaf, t in zip(flat.states, after, strict=True)}
    # What is made of another source counts nothing.
    fed = {leaf.name for leaf in (*flat.inputs, *flat.states)} - left
    while more := {name for name in left if made_of[name] & fed}:
        fed, left = fed | more, left - more
    # What goes alone to others that nothing reads is not read either.
    read = flow.asked.union(*map(flow.names_of, outputs))
    while more := left & read.union(*(made_of[name] for name in made_of.keys() - left)):
        left -= more
    return [leaf.name for leaf in flat.states if leaf.name in left]
