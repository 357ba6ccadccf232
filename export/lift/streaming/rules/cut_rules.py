"""Rules for cuts over time: without the first frames, every other frame, the newest one alone, the first ones."""

from __future__ import annotations

from typing import Any

from torch import fx

from rnn_export.export.lift.ir.fx_nodes import END, args_of, aten
from rnn_export.export.lift.streaming.alignment import shift_start
from rnn_export.export.lift.streaming.first_frames import first_frames
from rnn_export.export.lift.streaming.framewise_rule import general
from rnn_export.export.lift.streaming.reach import Reach, may_be_time
from rnn_export.export.lift.streaming.reflect_padding import with_padding
from rnn_export.export.lift.streaming.rule_context import StreamingContext, rule
from rnn_export.export.lift.streaming.time_axis import LastFrame, NodeInfo, TimeAxisInfo, refusal

# A number above is an end, not a size.
HUGE = 2**20


def _reach(node: fx.Node) -> Reach:
    value, dim, *numbers = args_of(node)
    if not may_be_time(value, dim):
        return Reach()
    ends = [n for n in numbers[:2] if type(n) is int and abs(n) < HUGE]
    return Reach(sum(map(abs, ends)), numbers[2] if len(numbers) > 2 else 1)


@rule(aten.slice.Tensor, reach=_reach, takes_reflections=True)
def cut(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """A cut from a frame on moves the start of the sequence; one of the newest frame has no frames."""
    value, dim = args_of(node)[:2]
    if not context.has_time_along(value, dim):
        return general(context, node)
    if context.timed(value).reflections is not None:
        if _takes_all(context, node):
            node.target, node.args = aten.alias.default, (value,)
            return general(context, node)
        value = with_padding(context, value, node)
        node.update_arg(0, value)
    info, runs = context.timed(value).by_entry(), (context.runs.base, context.runs.longer)
    sizes, taken = ([int(run[n].shape[info.layout.axis]) for run in runs] for n in (value, node))
    starts, steps = _in_both(context, node, 2, 0), _in_both(context, node, 4, 1)
    starts = [n if n >= 0 else n + size for n, size in zip(starts, sizes, strict=True)]
    if taken[0] == taken[1]:
        if starts[0] == starts[1] and steps[0] == 1 and info.layout.outer == 1:
            return first_frames(context, node, value, info, starts[0])
        return _newest(node, info, taken[0], sizes[0] - starts[0] == sizes[1] - starts[1])
    # A step leaves out frames at the end as well.
    cut_at_end = steps[0] == 1 and taken[1] - taken[0] != sizes[1] - sizes[0]
    if starts[0] != starts[1] or steps[0] < 1 or cut_at_end:
        raise refusal(node, "it cuts the sequence at a place that depends on its length.", id="cut-by-length")
    node.target, node.args = aten.alias.default, (value,)
    info = shift_start(context, node, info, -starts[0], 0.0)
    return info if steps[0] == 1 else _decimate(context, node, info, steps[0])


def _takes_all(context: StreamingContext, node: fx.Node) -> bool:
    """True if a cut leaves nothing out, whatever the length."""
    value = args_of(node)[0]
    info, same = context.timed(value), _in_both(context, node, 2, 0) == [0, 0] and _in_both(context, node, 4, 1)[0] == 1
    before, after = (context.lengths.of(n, info.layout.axis, info.rate, context.unit) for n in (value, node))
    return same and before == after


def _newest(node: fx.Node, info: TimeAxisInfo, frames: int, from_end: bool) -> LastFrame:
    """A cut of the newest `frames` frames of a sequence."""
    if not from_end:
        raise refusal(
            node,
            "it takes a fixed part of the sequence, which a stream has no beginning or end for.",
            id="fixed-part-of-sequence",
        )
    if frames > info.history + 1:
        reason = f"it takes the last {frames} frames of the sequence: keep them in a buffer, or pad on the left."
        raise refusal(node, reason, id="last-frames-not-kept")
    node.args = (args_of(node)[0], info.layout.axis, -frames, END)
    return LastFrame(info.input_lag)


def _decimate(context: StreamingContext, node: fx.Node, info: TimeAxisInfo, step: int) -> TimeAxisInfo:
    """Every `step`th frame of the argument of `node`, a window of one frame."""
    result, history = info.windowed(1, step)
    if history > info.history:
        raise refusal(
            node,
            "it takes every other frame from one that is known before its time: pad after that.",
            id="decimated-early-frames",
        )
    axis = info.layout.axis
    front = context.insert(node, aten.slice.Tensor, args_of(node)[0], axis, info.history - history, END)
    node.target, node.args = aten.slice.Tensor, (front, axis, 0, END, step)
    return result


def _in_both(context: StreamingContext, node: fx.Node, index: int, usual: int) -> list[int]:
    """A number among the arguments of `node`, in the base run and in the longer one."""
    given: Any = args_of(node)[index] if len(node.args) > index else None
    if isinstance(given, fx.Node):
        return [int(context.runs.base[given]), int(context.runs.longer[given])]
    return [usual if given is None else int(given)] * 2


@rule(aten.select.int)
def select(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """One frame: the newest, or a fixed one."""
    value, dim, _ = args_of(node)
    if not context.has_time_along(value, dim):
        return general(context, node)
    info, indices = context.timed(value), _in_both(context, node, 2, 0)
    if indices[0] == indices[1] >= 0 and info.layout.is_plain:
        frame = context.computed(node, value, aten.slice.Tensor, value, info.layout.axis, indices[0], indices[0] + 1)
        context.info[frame] = first_frames(context, frame, value, info, indices[0])
        node.args = (frame, dim, 0)
        return context.info[frame]
    sizes = [run[value].shape[info.layout.axis] for run in (context.runs.base, context.runs.longer)]
    if any(i not in (-1, n - 1) for i, n in zip(indices, sizes, strict=True)):
        raise refusal(
            node,
            f"it takes frame {indices[0]} of the sequence alone: a stream has only the newest one.",
            id="one-frame-taken",
        )
    node.update_arg(2, -1)
    return LastFrame(info.input_lag)
