"""Time loops of the model's own, rolled up: each carries variables from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from torch import fx

from rnn_export.export.lift.loops.rolled import RolledLoop
from rnn_export.export.lift.program.fx import args_of, path_of, placeholders
from rnn_export.export.lift.streaming.alignment import delay_to, delay_to_step
from rnn_export.export.lift.streaming.context import StreamingContext
from rnn_export.export.lift.streaming.names import OPS
from rnn_export.export.lift.streaming.reasons import refusal
from rnn_export.export.lift.streaming.registry import rule
from rnn_export.export.lift.streaming.rules.recurrent import refuse_computed, result_of
from rnn_export.export.lift.streaming.time_axis import Info, LastFrame, NodeInfo, Unsupported


@rule(RolledLoop, takes_unsupported=True)
def rolled_loop(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """A loop starts each step from states, one for each variable that it carries."""
    loop = context.module.get_submodule(str(node.target))
    assert isinstance(loop, RolledLoop)
    args = args_of(node)
    first_memory = len(args) - loop.memories
    first_frame = first_memory - len(loop.scans)
    outside, frames, memories = args[:first_frame], args[first_frame:first_memory], args[first_memory:]
    unsupported = [i for n in args[:first_memory] if isinstance(i := context.info.get(n), Unsupported)]
    if unsupported:
        return unsupported[0]
    _refuse_other_time(context, node, loop, outside, frames)
    settled = [delay_to_step(context, x, node) for x in frames]
    lag = max(context.timed(x).lag or 0 for x in settled)
    settled = [delay_to(context, x, lag, node) for x in settled]
    info = replace(context.timed(settled[0]), history=0, lag=lag)
    memories = _carried(context, node, loop, memories, info.input_lag)
    node.args = (*outside, *settled, *memories)
    results = context.runs.base[node]
    infos: list[Info] = [LastFrame(info.input_lag)] * len(results)
    for k, (_, dim) in enumerate(loop.joins):
        axis = dim % results[k].dim()
        size = results[k].shape[axis] // context.frames_in(settled[0])
        infos[k] = replace(info, layout=replace(info.layout, axis=axis, frame_size=size))
    return infos


def _refuse_other_time(
    context: StreamingContext, node: fx.Node, loop: RolledLoop, outside: Sequence[fx.Node], frames: Sequence[fx.Node]
) -> None:
    """Raise LiftError unless the loop runs over the frames of the input, all at one rate, and takes no others."""
    if any(context.is_moving(n) for n in outside):
        raise refusal(node, "its loop over time takes the whole sequence at each frame.")
    for x, path in zip(frames, loop.scans, strict=True):
        if context.time_axis(x) != path[0][1] or context.timed(x).layout.frame_size != 1:
            raise refusal(node, "its loop does not run over the frames of the input.")
    if len({context.timed(x).rate for x in frames}) > 1:
        raise refusal(node, "its loop takes values of different rates over time.")


def _carried(
    context: StreamingContext, node: fx.Node, loop: RolledLoop, memories: Sequence[fx.Node], input_lag: Fraction
) -> list[fx.Node]:
    """What the loop starts from in each step: states of the model, or new ones."""
    why = "a variable that the model's own loop carries from frame to frame"
    layers: dict[fx.Node, str] = {}
    carried = []
    for i, memory in enumerate(memories):
        name, letter = _memory_name(context, loop, i, layers)
        refuse_computed(context, name, memory, letter)
        if memory not in context.from_states:
            index = len(context.runs.base[node]) - loop.memories + i
            result = result_of(context, node, index)
            for run in context.runs.all:
                run[result] = run[node][index]
            runs = context.runs.base, context.runs.other_batch
            base, other_batch = (run[memory].expand_as(run[result]) for run in runs)
            name = context.names.unused(name)
            memory = context.states.add(name, result, (base, other_batch), node, "loop", why)
            context.states.set_next(memory, result, input_lag)
        carried.append(memory)
    return carried


def _memory_name(
    context: StreamingContext, loop: RolledLoop, index: int, layers: dict[fx.Node, str]
) -> tuple[str, str]:
    """The name of one memory: by the layer that takes it, or else by the module that reads it first.

    `layers` has the names of the layers in the loop that were met before.
    """
    memory = placeholders(loop.body.graph)[index - loop.memories]
    node = memory
    while len(node.users) == 1:
        user = next(iter(node.users))
        for argument, letter, _ in OPS.get(user.target, ()):
            if user.args[argument] is node:
                if user not in layers:
                    layers[user] = context.names.layer(user)
                return f"{layers[user]}.{letter}", letter
        if len(user.all_input_nodes) > 1 or user.op == "output":
            break
        node = user
    path = path_of(next(iter(memory.users), memory))
    return ".".join([*filter(None, [path]), "state"]), "state"
