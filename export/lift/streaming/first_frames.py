"""The first frames of a sequence, kept in a state from the step that brings them on: `x - x[:, :1]`.

Frame f of a value of lag L is frame f - base of a step before which base + L frames of it went in. If the step has such
a frame, the state takes it, and values made of the state are as of the end of the step:

    step (one frame)    0       1       2
    x                   x0      x1      x2
    x[:, :1]            x0      x0      x0

An operator that takes the first k frames with others waits for k - 1 frames, until all k are there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import END, aten
from rnn_export.export.lift.streaming.alignment import delay_to, entry_numbers, first_number, trim
from rnn_export.export.lift.streaming.rule_context import StreamingContext
from rnn_export.export.lift.streaming.time_axis import FirstFrames, TimeAxisInfo


def first_frames(
    context: StreamingContext, node: fx.Node, value: fx.Node, info: TimeAxisInfo, start: int
) -> FirstFrames:
    """Let `node`, a slice of `value` from frame `start` on, be these frames in every step; `info` is of `value`."""
    axis, count = info.layout.axis, int(context.runs.base[node].shape[info.layout.axis])
    value = trim(context, context.alias(value, info.moving(), node), 0, node)
    lag, last = info.lag or 0, start + count - 1
    initial = [_known(run[node], axis, -lag - start) for run in (context.runs.base, context.runs.other_batch)]
    why = f"frames {start} to {last} of the sequence, which all others meet" if last else "the first frame"
    name = context.names.kept(node, "first")
    own = context.states.add(name, node, (initial[0], initial[1]), node, "frames", why)
    mask = _kept_frames(context, node, value, own, range(start, last + 1))
    context.states.set_next(own, mask)
    node.target, node.args, node.kwargs = aten.alias.default, (mask,), {}
    context.lengths.shortest = max(context.lengths.shortest, math.ceil(Fraction(last + 1) / info.rate))
    return FirstFrames(max(math.floor(Fraction(last + lag) / (context.chunk * info.rate)), 0))


def _known(frames: Tensor, axis: int, count: int) -> Tensor:
    """The first `count` frames, known before the stream begins, zeros for the others."""
    there = torch.arange(frames.shape[axis]) < count
    return torch.where(there.reshape([-1] + [1] * (frames.dim() - 1 - axis)), frames, torch.zeros_like(frames))


def _kept_frames(
    context: StreamingContext, node: fx.Node, value: fx.Node, own: fx.Node, frames: Sequence[int]
) -> fx.Node:
    """The frames of `value` at the indices `frames`: from the step if it brings them, else from `own`."""
    info, call = context.timed(value), context.graph.call_function
    axis, lag = info.layout.axis, info.lag or 0
    shape = [-1 if a == axis else 1 for a in range(context.rank(value))]
    wanted = context.constant(torch.tensor(list(frames)).reshape(shape), node)
    with context.graph.inserting_before(node):
        place = call(aten.sub.Tensor, (wanted, first_number(context, value, lag, frames[-1] + 1)))
        newest = call(aten.slice.Tensor, (entry_numbers(context, value), axis, -1, END))
        is_here = call(
            aten.logical_and.default, (call(aten.ge.Scalar, (place, 0)), call(aten.le.Tensor, (place, newest)))
        )
        source = call(aten.clamp.default, (call(aten.minimum.default, (place, newest)), 0))
        zeros = call(aten.zeros_like.default, (own,), {"dtype": torch.int64})
        taken = call(aten.gather.default, (value, axis, call(aten.add.Tensor, (source, zeros))))
        return call(aten.where.self, (is_here, taken, own))


# --- states that start from them


def after_first(context: StreamingContext, value: fx.Node, operands: Sequence[fx.Node], before: fx.Node) -> fx.Node:
    """`value`, late by whole steps, with frame 0 no earlier than `operands` that are made of first frames."""
    info = context.timed(value)
    steps = max((i.steps for n in operands if isinstance(i := context.info.get(n), FirstFrames)), default=0)
    lag = max(info.lag or 0, int(steps * context.chunk * info.rate))
    return delay_to(context, value, lag, before)


def start_of(context: StreamingContext, operand: fx.Node) -> tuple[Tensor, Tensor]:
    """The initial values of the state for `operand`, in two runs: zeros if it is made of first frames."""
    values: list[Tensor] = [run[operand] for run in (context.runs.base, context.runs.other_batch)]
    if isinstance(context.info.get(operand), FirstFrames):
        values = [torch.zeros_like(value) for value in values]
    return values[0], values[1]


def started(context: StreamingContext, own: fx.Node, operand: fx.Node, info: TimeAxisInfo, before: fx.Node) -> fx.Node:
    """`own`, or `operand` up to the first step with frames of `info`, if it is made of first frames."""
    if not isinstance(context.info.get(operand), FirstFrames):
        return own
    runs, call = context.runs, context.graph.call_function
    with context.graph.inserting_before(before):
        fed = context.states.seen_frames(info.input_lag + 1)
        fed = context.states.for_each_row(fed, operand, runs.base[operand], runs.other_batch[operand])
        return call(aten.where.self, (call(aten.le.Scalar, (fed, float(info.input_lag))), operand, own))
