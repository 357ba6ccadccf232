"""Joins over time: frames put before a sequence, the model's own past among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from rnn_export.export.lift.program.fx import args_of, aten
from rnn_export.export.lift.streaming.alignment import trim
from rnn_export.export.lift.streaming.context import StreamingContext
from rnn_export.export.lift.streaming.general import general
from rnn_export.export.lift.streaming.reasons import refusal
from rnn_export.export.lift.streaming.registry import Reach, rule
from rnn_export.export.lift.streaming.sequence_start import shift_start
from rnn_export.export.lift.streaming.time_axis import NodeInfo, TimeAxisInfo


def _reach(node: fx.Node) -> Reach:
    values = [n.meta.get("val") for n in node.all_input_nodes if n.op != "placeholder"]
    largest = [max((n for n in v.shape if isinstance(n, int)), default=0) for v in values if isinstance(v, Tensor)]
    return Reach(sum(largest) + sum(abs(n) for n in args_of(node)[1:]))


@rule(aten.cat.default, reach=_reach)
def join(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """What stands before the sequence is padding, or its past that the model keeps itself."""
    parts, dim = args_of(node)[0], args_of(node)[1] if len(node.args) > 1 else 0
    axis = dim % context.rank(node)
    if not any(context.time_axis(n) == axis for n in parts):
        return general(context, node)
    parts = [n for n in parts if context.runs.base[n].numel()]
    place = _place_of_sequence(context, node, parts, axis)
    front, value, back = parts[:place], parts[place], parts[place + 1 :]
    if back:
        context.note_lookahead(node, _frames(context, back, axis), "frames joined behind")
    if any(n in context.from_states for n in front):
        return _behind_own_past(context, node, value, front, axis)
    if any(n in context.from_input for n in front):
        raise refusal(node, "it puts frames before the sequence that are computed from the input.")
    info, fill = context.timed(value).by_entry(), 0.0
    if front:
        frames = torch.cat([context.runs.base[n] for n in front], axis).detach()
        fill = float(frames.flatten()[0])
        if (info.lag or 0) > 0 and float(frames.min()) != float(frames.max()):
            raise refusal(node, "it puts frames that are not all the same before a sequence that is late.")
    node.target, node.args = aten.alias.default, (value,)
    return shift_start(context, node, info, _frames(context, front, axis), fill)


def _frames(context: StreamingContext, parts: Sequence[fx.Node], axis: int) -> int:
    return sum(int(context.runs.base[n].shape[axis]) for n in parts)


def _place_of_sequence(context: StreamingContext, node: fx.Node, parts: Sequence[fx.Node], axis: int) -> int:
    """Which part is the sequence; the others must be there without it."""
    timed = [i for i, n in enumerate(parts) if context.time_axis(n) == axis]
    others = [n for i, n in enumerate(parts) if i not in timed]
    if len(timed) != 1 or any(context.is_moving(n) for n in others):
        raise refusal(node, "it joins two sequences one behind the other: a stream has no end at which to do so.")
    return timed[0]


def _behind_own_past(
    context: StreamingContext, node: fx.Node, value: fx.Node, front: Sequence[fx.Node], axis: int
) -> TimeAxisInfo:
    """The model keeps its own past in a state, and puts it before the frames of each call."""
    value = trim(context, value, 0, node)
    node.args = ([*front, value], axis)
    info, history = context.timed(value).by_entry(), _frames(context, front, axis)
    return replace(info, lag=(info.lag or 0) - history, history=history)
