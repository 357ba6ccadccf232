"""Padding after the last frame of a sequence, which is filled in once the sequence has ended.

A step in which the sequence ends, or that comes after, takes input frames that are not part of it. From some frame on,
these make frames of every value that are not its own. If a value is padded on the right, the padding takes their place.
A value that is only cut, filtered or decimated needs nothing, since none of its own frames depends on them. The number
of input frames after the end, `past_end`, is a state: 0 as long as the sequence goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.streaming.rule_context import StreamingContext
from rnn_export.export.lift.streaming.time_axis import TimeAxisInfo


def fill_after_end(context: StreamingContext, value: fx.Node, fill: float, before: fx.Node, beyond: int = 0) -> fx.Node:
    """`value`, each entry a frame, with `fill` in place of all frames after its last one and `beyond` more."""
    node = context.alias(value, as_late_as_known(context, value, context.timed(value)), before)
    filled = context.insert(before, aten.where.ScalarOther, is_own(context, node, before, -beyond), node, fill)
    context.after_end[filled] = node
    return context.annotate(filled, node, context.timed(node))


def as_late_as_known(context: StreamingContext, value: fx.Node, info: TimeAxisInfo) -> TimeAxisInfo:
    """`info`; frames that are all alike get a lag after which they are known to exist."""
    if info.lag is not None:
        return info
    of_whole, *_ = context.lengths.of(value, info.layout.axis, info.rate, context.unit)
    return replace(info, lag=max(-of_whole, 0))


def is_own(
    context: StreamingContext, value: fx.Node, before: fx.Node, padded: int = 0, inner: fx.Node | None = None
) -> fx.Node:
    """A bool mask by row of a step's frames that are the value's own, but for the last `padded` of a sequence.

    The value ends where `inner` does, if that is given.
    """
    axis, runs = context.timed(value).layout.axis, context.runs
    shape = [-1 if a == axis else 1 for a in range(context.rank(value))]
    first = torch.tensor(_first_past(context, value, padded, inner or value), dtype=torch.float32)
    thresholds = context.constant(first.reshape(shape), before)
    with context.graph.inserting_before(before):
        past = context.states.past_end()
        past = context.states.for_each_row(past, value, runs.base[value], runs.other_batch[value])
        return context.graph.call_function(aten.lt.Tensor, (past, thresholds))


def _first_past(context: StreamingContext, value: fx.Node, padded: int, inner: fx.Node) -> list[int]:
    """By frame of `value` in a step, the fewest frames past the end with which it is not the value's own."""
    frames = context.frames_in_step(value)
    own = _own_frames(context, value, padded, inner)
    first, past = [0] * frames, 1
    for frame in reversed(range(frames)):
        while own(past) > frame:
            past += 1
        first[frame] = past
    return first


def _own_frames(context: StreamingContext, value: fx.Node, padded: int, inner: fx.Node) -> Callable[[int], int]:
    """The number of a step's frames that are a value's own, by frames past the end; below 0 long after it."""
    info, unit = context.timed(value), context.unit
    lengths = context.lengths.of(inner, context.timed(inner).layout.axis, info.rate, unit)
    ahead = (info.lag or 0) + info.history - padded

    def own(past: int) -> int:
        periods, rest = divmod(context.chunk - past, unit)
        return periods * int(unit * info.rate) + lengths[rest] + ahead

    return own
