"""Recurrent operators over time: each starts from states, and gives them back."""

from __future__ import annotations

import operator
from dataclasses import replace

from torch import fx

from rnn_export.errors import LiftError
from rnn_export.export.lift.program.fx import args_of
from rnn_export.export.lift.streaming.alignment import delay_to_step
from rnn_export.export.lift.streaming.context import StreamingContext
from rnn_export.export.lift.streaming.general import general
from rnn_export.export.lift.streaming.names import OPS
from rnn_export.export.lift.streaming.registry import rule
from rnn_export.export.lift.streaming.time_axis import LastFrame, NodeInfo


@rule(*OPS, takes_unsupported=True)
def recurrent(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """Over time a layer starts each step from states; over another axis it is an operator like others."""
    x, directions = args_of(node)[0], context.runs.base[args_of(node)[1]].shape[0]
    if context.time_axis(x) != 0:
        return context.unsupported_argument(node) or general(context, node)
    path = context.names.layer(node)
    if directions == 2:
        kind = str(node.target).split(".")[1].upper()
        raise LiftError(
            f"{path.rpartition('.')[0] or 'the model'}: the {kind} is bidirectional: it needs the end of the sequence "
            "before it can give the first frame, so it cannot stream. Train it with bidirectional=False, or export "
            "whole sequences only: sequence_only=True (--sequence-only)."
        )
    for argument, letter, _ in OPS[node.target]:
        refuse_computed(context, path, args_of(node)[argument], letter)
    ready = delay_to_step(context, x, node)
    node.update_arg(0, ready)
    info = context.timed(ready)
    for argument, letter, index in OPS[node.target]:
        operand = args_of(node)[argument]
        if operand not in context.from_states:
            name = context.names.unused(f"{path}.{letter}")
            why = f"the {letter} of a layer that is called without it, or with one made in forward"
            own = context.states.add(name, x, operand, node, "layer", why)
            node.update_arg(argument, own)
            context.states.set_next(own, result_of(context, node, index), info.input_lag)
    of_states = [LastFrame(info.input_lag)] * (len(context.runs.base[node]) - 1)
    return [replace(info, layout=replace(info.layout, axis=0)), *of_states]


def refuse_computed(context: StreamingContext, path: str, operand: fx.Node, letter: str) -> None:
    """Raise LiftError where a state starts from a value that depends on the input."""
    if context.is_computed(operand):
        raise LiftError(
            f"{path}: the state {letter!r} that it starts from is computed from the input, so it cannot be carried "
            "between calls. Take it as an argument and declare it: states={argument: output}."
        )


def result_of(context: StreamingContext, node: fx.Node, index: int) -> fx.Node:
    """The node that takes one of the results of `node`; a new one where the model takes none."""
    taken = [u for u in node.users if u.target is operator.getitem and u.args[1] == index]
    if taken:
        return taken[0]
    with context.graph.inserting_after(node):
        return context.graph.call_function(operator.getitem, (node, index))
