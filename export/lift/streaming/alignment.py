"""Brings values to one lag and one history, by states of earlier frames, and puts frames before a sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import END, args_of, aten
from rnn_export.export.lift.streaming.rule_context import StreamingContext
from rnn_export.export.lift.streaming.time_axis import TimeAxisInfo, refusal


def align(context: StreamingContext, node: fx.Node, arguments: Sequence[fx.Node], lag: int | None) -> int:
    """Bring `arguments` of `node` to `lag` and to one history, which is returned."""
    delayed = [delay_to(context, n, lag, node) for n in arguments]
    histories = [i.history for n in delayed if (i := context.timed(n)).lag is not None]
    history = min(histories) if histories and len(histories) == len(delayed) else 0
    for old, new in zip(arguments, delayed, strict=True):
        trimmed = trim(context, new, history, node) if context.timed(new).lag is not None else new
        if trimmed is not old:
            node.replace_input_with(old, trimmed)
    return history


def trim(context: StreamingContext, value: fx.Node, history: int, before: fx.Node) -> fx.Node:
    """`value` with only `history` frames of the past at its front."""
    info = context.timed(value)
    if info.history == history:
        return value
    start = (info.history - history) * info.layout.inner
    cut = context.insert(before, aten.slice.Tensor, value, info.layout.axis, start, END)
    return context.annotate(cut, value, replace(info, history=history))


def delay_to(context: StreamingContext, value: fx.Node, lag: int | None, before: fx.Node) -> fx.Node:
    """`value` with a lag of `lag`; as it is if its frames are all alike."""
    info = context.timed(value)
    if lag is None or info.lag is None or info.lag == lag:
        return value
    frames = lag - info.lag
    if info.layout.outer != 1:
        raise refusal(
            before, "frames of different lags meet where time and batch are one axis.", id="lags-in-merged-axis"
        )
    if info.history >= frames:
        source, delayed = value, replace(info.delayed(frames), history=info.history - frames)
    else:
        value = trim(context, value, 0, before)
        delayed = context.timed(value).delayed(frames)
        source = keep_history(context, value, frames, before, "delay", f"frames that wait {frames} frames for others")
    end = -frames * info.layout.inner
    cut = context.insert(before, aten.slice.Tensor, source, info.layout.axis, 0, end)
    return context.annotate(cut, value, delayed)


def delay_to_step(context: StreamingContext, value: fx.Node, before: fx.Node) -> fx.Node:
    """`value` without a history, at a lag of whole steps, at least 0: a carried state is held for that long."""
    info = context.timed(value)
    step = context.chunk * info.rate
    lag = 0 if info.lag is None else max(int(math.ceil(info.lag / step) * step), 0)
    return trim(context, delay_to(context, value, lag, before), 0, before)


def keep_history(
    context: StreamingContext, value: fx.Node, frames: int, before: fx.Node, what: str, why: str, known: bool = True
) -> fx.Node:
    """`value` behind the `frames` frames before it, which a state keeps, `what` by name.

    Frames that are there before the stream begins are zeros, unless `known`.
    """
    info, runs = context.timed(value), context.runs
    start, fixed = info if known else replace(info, lag=0), known and context.is_constant(value)
    initial = tuple(_history_at_start(run[value], start, frames, fixed) for run in (runs.base, runs.other_batch))
    own = context.states.add(context.names.kept(before, what), value, (initial[0], initial[1]), before, "frames", why)
    axis = info.layout.axis
    joined = context.insert(before, aten.cat.default, [own, value], axis)
    newest = context.insert(before, aten.slice.Tensor, joined, axis, -frames * info.layout.inner, END)
    context.states.set_next(own, newest)
    return joined


def _history_at_start(whole: Tensor, info: TimeAxisInfo, frames: int, fixed: bool) -> Tensor:
    """The `frames` frames before those of the first step: zeros, then the frames known ahead of time.

    If the value is `fixed`, made of constants alone, copies of its first frame take the place of the zeros.
    """
    axis, size = info.layout.axis, info.layout.inner
    start, end = (max(n * size, 0) for n in (-(info.lag or 0) - frames, -(info.lag or 0)))
    known = whole.narrow(axis, start, end - start)
    missing = [frames * size - (end - start) if a == axis else n for a, n in enumerate(whole.shape)]
    front = whole.narrow(axis, 0, size).repeat([n // size if a == axis else 1 for a, n in enumerate(missing)])
    return torch.cat([front if fixed else torch.zeros_like(front), known], axis)


def shift_start(context: StreamingContext, node: fx.Node, info: TimeAxisInfo, frames: int, fill: float) -> TimeAxisInfo:
    """The info of `node`, which repeats a sequence of `info`, after `frames` frames of `fill`; negative: frames cut.

    If the sequence is late, the argument of `node` is rewritten with `fill` in these frames.
    """
    if frames > 0 and (info.lag or 0) > 0:
        filled = fill_missing(context, args_of(node)[0], fill, node)
        node.update_arg(0, filled)
        info = context.timed(filled).by_entry()
    if info.lag is None and fill == 0 and frames <= 0:
        return info
    return replace(info, lag=(info.lag or 0) - frames)


def pad_start(context: StreamingContext, value: fx.Node, frames: int, fill: float, before: fx.Node) -> fx.Node:
    """`value` with `frames` more frames of `fill` before the sequence."""
    node = context.insert(before, aten.alias.default, value)
    context.annotate(node, before, None)
    info = context.timed(value)
    for run in context.runs.all:
        whole = run[value]
        sizes = [frames if a == info.layout.axis else n for a, n in enumerate(whole.shape)]
        run[node] = torch.cat([whole.new_full(sizes, fill), whole], info.layout.axis)
    context.info[node] = shift_start(context, node, info, frames, fill)
    return node


def fill_missing(context: StreamingContext, value: fx.Node, fill: float, before: fx.Node) -> fx.Node:
    """`value` with `fill` in place of frames that do not exist yet."""
    info, call = context.timed(value), context.graph.call_function
    behind = (info.lag or 0) + info.history
    with context.graph.inserting_before(before):
        first = first_number(context, value, behind)
        entry, size = entry_numbers(context, value), info.layout.inner
        here = entry if size == 1 else call(aten.floor_divide.default, (entry, size))
        exists = call(aten.ge.Scalar, (call(aten.add.Tensor, (here, first)), 0))
        filled = call(aten.where.ScalarOther, (exists, value, fill))
    return context.annotate(filled, value, info)


def first_number(context: StreamingContext, value: fx.Node, behind: int, exact: int = 0) -> fx.Node:
    """The number in the sequence of the first frame of a step, which is `behind` frames late, by row of `value`.

    Up to `exact` it is that number; beyond, one that is no smaller. At the insertion point.
    """
    rate, runs, call = context.timed(value).rate, context.runs, context.graph.call_function
    fed = context.states.seen_frames(Fraction(math.ceil((behind + exact) / rate)))
    if rate.numerator != 1:
        fed = call(aten.mul.Scalar, (fed, float(rate.numerator)))
    if rate.denominator != 1:
        fed = call(aten.div.Scalar, (fed, float(rate.denominator)))
    number = call(aten._to_copy.default, (call(aten.sub.Scalar, (fed, float(behind))),), {"dtype": torch.int64})
    return context.states.for_each_row(number, value, runs.base[value], runs.other_batch[value])


def entry_numbers(context: StreamingContext, value: fx.Node) -> fx.Node:
    """The numbers from 0 on of the entries of a step, along their axis; at the insertion point."""
    call, axis, one = context.graph.call_function, context.timed(value).layout.axis, value
    for other in (a for a in range(context.rank(value)) if a != axis):
        one = call(aten.slice.Tensor, (one, other, 0, 1))
    # Not arange: of a sequence of any length its size would follow from values.
    ones = call(aten.ones_like.default, (one,), {"dtype": torch.int64})
    return call(aten.sub.Scalar, (call(aten.cumsum.default, (ones, axis)), 1))
