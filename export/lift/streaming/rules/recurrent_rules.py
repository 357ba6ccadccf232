"""Rules for recurrent operators and rolled-up time loops: each starts from states, and gives them back."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace

from torch import fx

from rnn_export.errors import SEQUENCES, LiftError
from rnn_export.export.lift.ir.fx_nodes import args_of, path_of, placeholders
from rnn_export.export.lift.loops.loop_body import COUNT, ITERATION, RolledLoop
from rnn_export.export.lift.streaming.alignment import delay_to, delay_to_step
from rnn_export.export.lift.streaming.first_frames import after_first, start_of, started
from rnn_export.export.lift.streaming.framewise_rule import general
from rnn_export.export.lift.streaming.rule_context import StreamingContext, rule
from rnn_export.export.lift.streaming.stream_states import OPS, dotted
from rnn_export.export.lift.streaming.time_axis import (
    FirstFrames,
    Info,
    LastFrame,
    NodeInfo,
    TimeAxisInfo,
    Unsupported,
    refusal,
)

# The kind of a loop's memory, and why it is there.
LOOPED = "loop", "a variable that the model's own loop carries from frame to frame"
COUNTED = {
    ITERATION: ("counter", "iterations of the model's own loop, whose first ones are unlike the others"),
    COUNT: ("counter", "iterations of the model's own loop, which takes their number"),
}


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
            "before it can give the first frame, so it cannot stream. Train it with bidirectional=False.",
            advice=[SEQUENCES],
            id="bidirectional-layer",
        )
    operands = [args_of(node)[argument] for argument, _, _ in OPS[node.target]]
    for (_, letter, _), operand in zip(OPS[node.target], operands, strict=True):
        _refuse_computed(context, path, operand, letter)
    context.carried.add(node)
    ready = after_first(context, delay_to_step(context, x, node), operands, node)
    node.update_arg(0, ready)
    info = context.timed(ready)
    for argument, letter, index in OPS[node.target]:
        operand = args_of(node)[argument]
        if operand not in context.from_states:
            name = context.names.unused(dotted(path, letter))
            why = f"the {letter} of a layer that is called without it, or with one made in forward"
            own = context.states.add(name, x, start_of(context, operand), node, "layer", why)
            node.update_arg(argument, started(context, own, operand, info, node))
            context.states.set_next(own, _result_of(context, node, index), info.input_lag)
    of_states = [LastFrame(info.input_lag)] * (len(context.runs.base[node]) - 1)
    return [replace(info, layout=replace(info.layout, axis=0)), *of_states]


def _refuse_computed(context: StreamingContext, path: str, operand: fx.Node, letter: str) -> None:
    if context.is_computed(operand) and not isinstance(context.info.get(operand), FirstFrames):
        raise LiftError(
            f"{path or 'the model'}: the state {letter!r} that it starts from is computed from the input, so it cannot "
            "be carried between calls. Take it as an argument and declare it: "
            "states={argument: output} (--state ARGUMENT=OUTPUT).",
            id="computed-initial-state",
        )


def _result_of(context: StreamingContext, node: fx.Node, index: int) -> fx.Node:
    """The node that takes one of the results of `node`; a new one where the model takes none."""
    taken = [u for u in node.users if u.target is operator.getitem and u.args[1] == index]
    if taken:
        return taken[0]
    with context.graph.inserting_after(node):
        return context.graph.call_function(operator.getitem, (node, index))


@rule(RolledLoop, takes_unsupported=True)
def rolled_loop(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """A loop starts each step from states, one for each variable that it carries."""
    loop = context.module.get_submodule(str(node.target))
    assert isinstance(loop, RolledLoop)
    outside, frames, memories = loop.parts_of(args_of(node))
    unsupported = [i for n in (*outside, *frames) if isinstance(i := context.info.get(n), Unsupported)]
    if unsupported:
        return unsupported[0]
    context.carried.add(node)
    # Of what makes more frames of each it runs over every one.
    frames = [context.alias(x, context.timed(x).by_entry(), node) if context.is_timed(x) else x for x in frames]
    _refuse_other_time(context, node, loop, outside, frames)
    with_padding = [after_first(context, delay_to_step(context, x, node), memories, node) for x in frames]
    lag = max(context.timed(x).lag or 0 for x in with_padding)
    with_padding = [delay_to(context, x, lag, node) for x in with_padding]
    info = replace(context.timed(with_padding[0]), history=0, lag=lag)
    memories = _carried(context, node, loop, memories, info)
    node.args = (*outside, *with_padding, *memories)
    results = context.runs.base[node]
    infos: list[Info] = [LastFrame(info.input_lag)] * len(results)
    for k, join in enumerate(loop.joins):
        axis = join.dim % results[k].dim()
        size = results[k].shape[axis] // context.frames_in(with_padding[0])
        infos[k] = replace(info, layout=replace(info.layout, axis=axis, inner=size))
    return infos


def _refuse_other_time(
    context: StreamingContext, node: fx.Node, loop: RolledLoop, outside: Sequence[fx.Node], frames: Sequence[fx.Node]
) -> None:
    """Raise LiftError unless the loop runs over the frames of the input, all at one rate, and takes no others."""
    if any(context.is_moving(n) for n in outside):
        raise refusal(
            node, "its loop over time takes the whole sequence at each frame.", id="loop-takes-whole-sequence"
        )
    for x, path in zip(frames, loop.scans, strict=True):
        if context.time_axis(x) != path[0][1]:
            raise refusal(node, "its loop does not run over the frames of the input.", id="loop-not-over-input")
    if len({context.timed(x).rate for x in frames}) > 1:
        raise refusal(node, "its loop takes values of different rates over time.", id="loop-at-different-rates")


def _carried(
    context: StreamingContext, node: fx.Node, loop: RolledLoop, memories: Sequence[fx.Node], info: TimeAxisInfo
) -> list[fx.Node]:
    """The states that the loop starts each step from: the model's, or new ones."""
    layers: dict[fx.Node, str] = {}
    carried = []
    for i, memory in enumerate(memories):
        name, letter = _memory_name(context, loop, i, layers)
        _refuse_computed(context, name, memory, letter)
        if memory not in context.from_states:
            index = len(context.runs.base[node]) - loop.memories + i
            result = _result_of(context, node, index)
            context.rows.info[result] = context.rows.result_of(node, index)
            for run in context.runs.all:
                run[result] = run[node][index]
            base, other_batch = start_of(context, memory)
            initial = (
                base.expand_as(context.runs.base[result]),
                other_batch.expand_as(context.runs.other_batch[result]),
            )
            kind, why = COUNTED.get(letter, LOOPED)
            own = context.states.add(context.names.unused(name), result, initial, node, kind, why)
            context.states.set_next(own, result, info.input_lag)
            memory = started(context, own, memory, info, node)
        carried.append(memory)
    return carried


def _memory_name(
    context: StreamingContext, loop: RolledLoop, index: int, layers: dict[fx.Node, str]
) -> tuple[str, str]:
    """The name of one memory: by the layer that takes it (`layers`: those met before), or the module that reads it."""
    memory = placeholders(loop.body.graph)[index - loop.memories]
    if memory.target in COUNTED:
        return dotted(path_of(next(iter(memory.users))), str(memory.target)), str(memory.target)
    node = memory
    while len(node.users) == 1:
        user = next(iter(node.users))
        for argument, letter, _ in OPS.get(user.target, ()):
            if user.args[argument] is node:
                if user not in layers:
                    layers[user] = context.names.layer(user)
                return dotted(layers[user], letter), letter
        if len(user.all_input_nodes) > 1 or user.op == "output":
            break
        node = user
    return dotted(path_of(next(iter(memory.users), memory)), "state"), "state"
