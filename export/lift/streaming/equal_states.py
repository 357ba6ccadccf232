"""Merges states that are always equal: they start alike, and have the same next values.

Two layers that keep the same frames of one value, or a value that waits for two others, would each have a state of
their own. States that start alike are taken to be equal until their next values differ in the graph, by operators and
arguments.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from operator import attrgetter

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.compare import EXACT, same
from rnn_export.export.lift.ir.fx_nodes import is_drawn, placeholders, results
from rnn_export.export.lift.streaming.stream_states import LiftedState
from rnn_export.export.lift.streaming.streaming_pass import Streamed

# Constants of so many numbers are compared by what they hold, larger ones by their place.
MOST_COMPARED = 4096


def merge_equal_states(module: fx.GraphModule, streamed: Streamed) -> Streamed:
    """Remove all but the first of each set of equal states from `module` and from the step, in place.

    The states that the pass added are the last ones of the graph; the model's own stay as they are.
    """
    if len(streamed.states) < 2:
        return streamed
    modules = [module, *([streamed.step] if streamed.step else [])]
    classes = _classes(modules, streamed)
    for one in modules:
        _merge(one, classes)
    return replace(streamed, states=[_merged(s, i, classes) for i, s in enumerate(streamed.states) if classes[i] == i])


def _merged(state: LiftedState, number: int, classes: Sequence[int]) -> LiftedState:
    others = classes.count(number) - 1
    return replace(state, why=f"{state.why}, kept once for {others + 1} places") if others else state


def _merge(module: fx.GraphModule, classes: Sequence[int]) -> None:
    states, given = placeholders(module.graph)[-len(classes) :], results(module.graph)
    first = len(given) - len(classes)
    kept = [given[first + i] for i, known in enumerate(classes) if known == i]
    module.graph.output_node().args = ((*given[:first], *kept),)
    for i, known in enumerate(classes):
        if known != i:
            states[i].replace_all_uses_with(states[known])
            module.graph.erase_node(states[i])
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def _classes(modules: Sequence[fx.GraphModule], streamed: Streamed) -> list[int]:
    """By state, the index of the first equal one."""
    classes = [
        next(j for j, other in enumerate(streamed.states) if j == i or _starts_as(state, other, streamed.end))
        for i, state in enumerate(streamed.states)
    ]
    while True:
        found = list(zip(classes, *(_next_numbers(m, classes) for m in modules), strict=True))
        finer = [found.index(known) for known in found]
        if finer == classes:
            return classes
        classes = finer


def _starts_as(state: LiftedState, other: LiftedState, end: str | None) -> bool:
    here, there = state.initial, other.initial
    alike = here.shape == there.shape and here.dtype == there.dtype and same(here, there, EXACT)
    return alike and end not in (state.name, other.name)


def _next_numbers(module: fx.GraphModule, classes: Sequence[int]) -> list[int]:
    """A number for each state's next value, the same for one value, if states of a class are equal."""
    known: dict[Hashable, int] = {}
    numbers: dict[fx.Node, int] = {}
    states = dict(zip(placeholders(module.graph)[-len(classes) :], classes, strict=True))
    for node in module.graph.nodes:
        if node.op == "output":
            break
        key = ("state", states[node]) if node in states else _key(module, node, numbers)
        numbers[node] = known.setdefault(key, len(known))
    return [numbers[node] for node in results(module.graph)[-len(classes) :]]


def _key(module: fx.GraphModule, node: fx.Node, numbers: dict[fx.Node, int]) -> Hashable:
    """A key for the value of a node: two nodes with one key have one value."""
    if node.op == "get_attr":
        held = attrgetter(str(node.target))(module)
        if isinstance(held, Tensor) and not isinstance(held, torch.nn.Parameter) and held.numel() <= MOST_COMPARED:
            return ("tensor", held.dtype, tuple(held.shape), tuple(held.reshape(-1).tolist()))
        return ("held", str(node.target))
    if node.op == "placeholder" or is_drawn(node):
        return ("alone", node.name)
    args = fx.node.map_arg((node.args, node.kwargs), lambda n: f"%{numbers[n]}")
    return (node.op, str(node.target), repr(args))
