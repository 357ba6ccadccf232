"""Boundary padding over time by the sequence's own frames, reflect or replicate, filled in where a window reads it.

Frame j of the padded sequence w is, with `left` frames before the sequence, and q the index of its last frame in w:

    mode        j < left          j > q
    reflect     w[2 left - j]     w[2 q - j]
    replicate   w[left]           w[q]

The frames before are known once the frames that they repeat are there, those behind once the sequence has ended. A wide
enough window over w contains the repeated frames. So the padding is filled in where a window reads it, by frame indices
computed from the position in the stream, and the padding itself moves nothing. Padding that no window reads is read by
one of a single frame.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import END, aten
from rnn_export.export.lift.streaming.alignment import entry_numbers, first_number, keep_history, trim
from rnn_export.export.lift.streaming.ends import is_own
from rnn_export.export.lift.streaming.rule_context import StreamingContext
from rnn_export.export.lift.streaming.time_axis import Reflections, TimeAxisInfo


def mirrored(context: StreamingContext, value: fx.Node, size: int, stride: int, before: fx.Node) -> fx.Node:
    """`value` with the history of a window of `size` frames, every `stride`, its boundary padding filled in."""
    info = context.timed(value)
    reflections = info.reflections
    assert reflections is not None
    plain = replace(info, reflections=None)
    early = max(reflections.reach(reflections.right) + 1 - size, 0) if reflections.right else 0
    late = _wait(plain, reflections, size, stride, context.chunk * plain.rate)
    _, history = plain.windowed(size + late, stride)
    history += early
    value = trim(context, context.alias(value, plain, before), min(history, 0), before)
    if history > 0:
        why = f"the {history} frames before each window of {size}, and those that the ends repeat"
        joined = keep_history(context, value, history, before, "frames", why, known=False)
        value = context.annotate(joined, value, replace(plain, history=history))
    if reflections.left:
        value = _at_start(context, value, reflections, before)
    if reflections.right:
        value = _at_end(context, value, reflections, before)
    if early or late:
        axis, entries = plain.layout.axis, plain.layout.inner
        end = -late * entries if late else END
        cut = context.insert(before, aten.slice.Tensor, value, axis, early * entries, end)
        info = replace(plain, lag=(plain.lag or 0) + late, history=history - early - late)
        value = context.annotate(cut, value, info)
    return value


def _wait(info: TimeAxisInfo, reflections: Reflections, size: int, stride: int, step: Fraction) -> int:
    """The fewest frames to wait for, so that windows over the padding before the sequence find what it repeats.

    A step has `step` frames. It brings windows whose last frame is there; the frames that they repeat may be later.
    """
    late = 0
    for first in range(0, reflections.left, stride):
        while True:
            result, _ = info.windowed(size + late, stride)
            number = math.ceil((first // stride + 1 + (result.lag or 0)) * stride / step)  # of steps, this one included
            if first + reflections.reach(reflections.left - first) < number * step - (info.lag or 0):
                break
            late += 1
    return late


def with_padding(context: StreamingContext, value: fx.Node, before: fx.Node) -> fx.Node:
    """`value` with its boundary padding filled in, if any."""
    if context.timed(value).reflections is None:
        return value
    return mirrored(context, value, 1, 1, before)


def _at_start(context: StreamingContext, value: fx.Node, reflections: Reflections, before: fx.Node) -> fx.Node:
    """`value` with the padding before the sequence, once the repeated frames are there."""
    info, call = context.timed(value), context.graph.call_function
    axis, behind = info.layout.axis, (info.lag or 0) + info.history
    with context.graph.inserting_before(before):
        base = first_number(context, value, behind, reflections.left)
        entry, size = entry_numbers(context, value), info.layout.inner
        here = entry if size == 1 else call(aten.floor_divide.default, (entry, size))
        number = call(aten.add.Tensor, (here, base))
        is_before = call(aten.lt.Scalar, (number, reflections.left))
        is_there = call(aten.ge.Scalar, (number, 0))
        is_reflection = call(aten.logical_and.default, (is_before, is_there))
        ahead = call(aten.mul.Scalar, (call(aten.rsub.Scalar, (number, reflections.left)), reflections.reach(1)))
        source = call(aten.where.self, (is_reflection, call(aten.add.Tensor, (here, ahead)), here))
        newest = call(aten.slice.Tensor, (here, axis, -1, END))
        source = call(aten.minimum.default, (source, newest))
        if size > 1:
            within = call(aten.sub.Tensor, (entry, call(aten.mul.Scalar, (here, size))))
            source = call(aten.add.Tensor, (call(aten.mul.Scalar, (source, size)), within))
        filled = _taken(context, value, source)
    return context.annotate(filled, value, info)


def _at_end(context: StreamingContext, value: fx.Node, reflections: Reflections, before: fx.Node) -> fx.Node:
    """`value` with the padding after the sequence once it has ended."""
    info, call = context.timed(value), context.graph.call_function
    own = is_own(context, value, before, -reflections.left, reflections.inner)
    frames, size = torch.arange(context.frames_in_step(value)), info.layout.inner
    shape = [-1 if a == info.layout.axis else 1 for a in range(context.rank(value))]
    here = context.constant(frames.reshape(shape), before)
    within = context.constant(torch.arange(size).repeat(len(frames)).reshape(shape), before) if size > 1 else None
    with context.graph.inserting_before(before):
        count = call(aten._to_copy.default, (own,), {"dtype": torch.int64})
        last = call(aten.sub.Scalar, (call(aten.sum.dim_IntList, (count, [info.layout.axis], True)), 1))
        if reflections.mode == "reflect":
            there = call(aten.sub.Tensor, (call(aten.mul.Scalar, (last, 2)), here))
        else:
            there = call(aten.minimum.default, (last, here))
        source = call(aten.where.self, (own, here, call(aten.clamp.default, (there, 0))))
        if within is not None:
            source = call(aten.repeat_interleave.self_int, (source, size, info.layout.axis))
            source = call(aten.add.Tensor, (call(aten.mul.Scalar, (source, size)), within))
        filled = _taken(context, value, source)
    context.after_end[filled] = value
    return context.annotate(filled, value, info)


def _taken(context: StreamingContext, value: fx.Node, source: fx.Node) -> fx.Node:
    """The frames of `value` at indices `source`, for each row; at the insertion point."""
    call = context.graph.call_function
    # Not expand_as: of a sequence of any length its size would follow from values.
    zeros = call(aten.zeros_like.default, (value,), {"dtype": torch.int64})
    everywhere = call(aten.add.Tensor, (source, zeros))
    return call(aten.gather.default, (value, context.timed(value).layout.axis, everywhere))
