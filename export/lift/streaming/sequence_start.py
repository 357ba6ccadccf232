"""Frames put before a sequence, or cut off there: the lag alone changes, unless the sequence is late."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from rnn_export.export.lift.dependence.frames import growing_axes
from rnn_export.export.lift.program.fx import args_of, aten
from rnn_export.export.lift.streaming.alignment import delay_to_step
from rnn_export.export.lift.streaming.context import StreamingContext
from rnn_export.export.lift.streaming.reasons import refusal
from rnn_export.export.lift.streaming.runs import BATCH
from rnn_export.export.lift.streaming.time_axis import TimeAxisInfo


def shift_start(context: StreamingContext, node: fx.Node, info: TimeAxisInfo, frames: int, fill: float) -> TimeAxisInfo:
    """Of `node`, which repeats its first argument: `frames` more of them, `fill`, stand before the sequence.

    Args:
        context: of the pass.
        node: whose argument is written anew where the frames of `fill` are not there ahead of their time.
        info: of its argument.
        frames: negative for frames that are cut off.
        fill: what each entry of the new frames is.
    """
    if frames > 0 and (info.lag or 0) > 0:
        filled = _fill_missing(context, args_of(node)[0], fill, node)
        node.update_arg(0, filled)
        info = replace(context.timed(filled).by_entry(), history=0)
    if info.lag is None and fill == 0 and frames <= 0:
        return info
    return replace(info, lag=(info.lag or 0) - frames)


def pad_start(context: StreamingContext, value: fx.Node, frames: int, fill: float, before: fx.Node) -> fx.Node:
    """`value` with `frames` more frames of `fill` before the sequence."""
    node = context.insert(before, aten.alias.default, value)
    context.stand_in(node, before, None)
    info = context.timed(value)
    for run in context.runs.all:
        whole = run[value]
        sizes = [frames if a == info.layout.axis else n for a, n in enumerate(whole.shape)]
        run[node] = torch.cat([whole.new_full(sizes, fill), whole], info.layout.axis)
    context.info[node] = shift_start(context, node, info, frames, fill)
    return node


def _fill_missing(context: StreamingContext, value: fx.Node, fill: float, before: fx.Node) -> fx.Node:
    """`value` with `fill` in place of the frames that do not exist yet."""
    settled = delay_to_step(context, value, before)
    value_of_base = context.runs.base[settled]
    axes = growing_axes(value_of_base, context.runs.other_batch[settled])
    if len(axes) != 1 or value_of_base.shape[axes[0]] != BATCH:
        raise refusal(before, "padding over time of late frames whose batch is merged with another axis.")
    info, rank = context.timed(settled), context.rank(settled)
    sizes = [-1 if a == axes[0] else 1 for a in range(rank)]
    with context.graph.inserting_before(before):
        ready = context.states.after_frames(info.input_lag, rank)
        ready = context.graph.call_function(aten.reshape.default, (ready, sizes))
        filled = context.graph.call_function(aten.where.ScalarOther, (ready, settled, fill))
    return context.stand_in(filled, settled, info)
