"""Rules for joins and padding over time, with the model's own past frames among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten
from rnn_export.export.lift.streaming.alignment import shift_start, trim
from rnn_export.export.lift.streaming.ends import fill_after_end
from rnn_export.export.lift.streaming.framewise_rule import general
from rnn_export.export.lift.streaming.reach import Reach, has_a_window_for_each_frame, may_be_time
from rnn_export.export.lift.streaming.rule_context import StreamingContext, rule
from rnn_export.export.lift.streaming.time_axis import NodeInfo, Reflections, refusal


def _join_reach(node: fx.Node) -> Reach:
    """The frames of all parts with an integer size."""
    dim = args_of(node)[1] if len(node.args) > 1 else 0
    if not may_be_time(node, dim):
        return Reach()
    values = [v for n in node.all_input_nodes if isinstance(v := n.meta.get("val"), Tensor)]
    return Reach(sum(n for v in values if v.numel() and type(n := v.shape[dim]) is int))


@rule(aten.cat.default, reach=_join_reach)
def join(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """Frames before the sequence are padding, or past frames that the model keeps itself."""
    parts, dim = args_of(node)[0], args_of(node)[1] if len(node.args) > 1 else 0
    axis = dim % context.rank(node)
    if not any(context.time_axis(n) == axis for n in parts):
        return general(context, node)
    parts = [n for n in parts if context.runs.base[n].numel()]
    timed = [i for i, n in enumerate(parts) if context.time_axis(n) == axis]
    others = [n for i, n in enumerate(parts) if i not in timed]
    if len(timed) != 1 or any(context.is_moving(n) for n in others):
        raise refusal(
            node,
            "it joins two sequences one behind the other: a stream has no end at which to do so.",
            id="sequences-joined",
        )
    front, value, back = parts[: timed[0]], parts[timed[0]], parts[timed[0] + 1 :]
    if back:
        value = _behind(context, node, value, back, axis)
    if any(n in context.from_states for n in front):
        # The model keeps its own past in a state, and puts it before the frames of each call.
        context.carried.add(node)
        value = trim(context, value, 0, node)
        node.args = ([*front, value], axis)
        info, history = context.timed(value).by_entry(), _frames(context, front, axis)
        return replace(info, lag=(info.lag or 0) - history, history=history)
    if any(n in context.from_input for n in front):
        raise refusal(
            node, "it puts frames before the sequence that are computed from the input.", id="computed-frames-before"
        )
    info, fill = context.timed(value).by_entry(), 0.0
    if front:
        frames = torch.cat([context.runs.base[n] for n in front], axis).detach()
        fill = float(frames.flatten()[0])
        if (info.lag or 0) > 0 and float(frames.min()) != float(frames.max()):
            raise refusal(
                node,
                "it puts frames that are not all the same before a sequence that is late.",
                id="uneven-frames-before-late",
            )
    node.target, node.args = aten.alias.default, (value,)
    return shift_start(context, node, info, _frames(context, front, axis), fill)


def _behind(context: StreamingContext, node: fx.Node, value: fx.Node, back: Sequence[fx.Node], axis: int) -> fx.Node:
    """`value` with `back` for frames past its end."""
    if any(n in context.from_input or n in context.from_states for n in back):
        raise refusal(
            node, "it puts frames behind the sequence that are computed from the input.", id="computed-frames-behind"
        )
    frames = torch.cat([context.runs.base[n] for n in back], axis).detach()
    if float(frames.min()) != float(frames.max()):
        raise refusal(node, "it puts frames behind the sequence that are not all the same.", id="uneven-frames-behind")
    entries = context.alias(value, context.timed(value).by_entry(), node)
    return fill_after_end(context, entries, float(frames.flatten()[0]), node)


def _frames(context: StreamingContext, parts: Sequence[fx.Node], axis: int) -> int:
    return sum(int(context.runs.base[n].shape[axis]) for n in parts)


def _pad_reach(node: fx.Node) -> Reach:
    """The padding of axes that may be time."""
    value, pads = args_of(node)[:2]
    if node.users and all(has_a_window_for_each_frame(n) for n in node.users):
        return Reach()
    along = (n for i, n in enumerate(pads) if may_be_time(value, -1 - i // 2))
    return Reach(sum(abs(n) for n in along if type(n) is int))


@rule(aten.pad.default, aten.constant_pad_nd.default, reach=_pad_reach)
def pad(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """Padding with a constant moves the start of the sequence; on the right it looks ahead."""
    value, pads, *rest = args_of(node)
    axis = context.time_axis(value)
    if axis is None:
        return general(context, node)
    # Pairs of (before, after), the last axis first.
    place = 2 * (context.rank(value) - 1 - axis)
    # What is computed from the length fills up a last window.
    left, right = (context.runs.number(n) for n in pads[place : place + 2] or (0, 0))
    computed = isinstance(pads[place + 1] if place < len(pads) else 0, fx.Node)
    right = 1 if right is None or computed else right
    if left is None:
        raise refusal(
            node, "it pads the start of a sequence by an amount that changes with its length.", id="padding-by-length"
        )
    others = [0 if i in (place, place + 1) else n for i, n in enumerate(pads)]
    node.args = (value, others, *rest)
    if not (left or right):
        return general(context, node)
    mode = next((a for a in rest if isinstance(a, str)), "constant")
    if mode in ("reflect", "replicate"):
        return _reflection(context, node, mode, (left, None if computed else right), others)
    if mode != "constant":
        raise refusal(
            node,
            f"padding over time by {mode} puts the end of the sequence before its start, which no stream has. Pad with "
            "a constant, or by reflect or replicate.",
            id="circular-padding",
        )
    fill = next((float(a) for a in rest if a is not None and not isinstance(a, str)), 0.0)
    entries = context.alias(value, context.timed(value).by_entry(), node)
    node.replace_input_with(value, entries)
    if right > 0:
        node.replace_input_with(entries, fill_after_end(context, entries, fill, node))
    info = shift_start(context, node, context.timed(args_of(node)[0]), left, fill)
    if not any(others):
        node.target, node.args = aten.alias.default, (args_of(node)[0],)
    return info


def _reflection(
    context: StreamingContext, node: fx.Node, mode: str, ends: tuple[int, int | None], others: list[int]
) -> NodeInfo:
    """Boundary padding, which the window that reads it fills in; the padding `others` is applied before.

    `ends` are its frames before and behind, the latter None if computed from the length.
    """
    value, (left, right) = args_of(node)[0], ends
    if any(others):
        inner = context.computed(node, value, aten.pad.default, value, others, mode)
        context.info[inner] = general(context, inner)
        value = inner
    inner = context.alias(value, context.timed(value).by_entry().moving(), node)
    info = context.timed(inner)
    if right is None:
        axis, unit = info.layout.axis, context.unit
        padded, own = (context.lengths.of(n, axis, info.rate, unit) for n in (node, inner))
        right = max(p - n for p, n in zip(padded, own, strict=True)) - left
    if left < 0 or right < 0:
        raise refusal(
            node,
            f"padding by {mode} with a negative number cuts the sequence: cut it before.",
            id="padding-cuts-sequence",
        )
    node.target, node.args = aten.alias.default, (trim(context, inner, 0, node),)
    info = context.timed(args_of(node)[0])
    return replace(info, lag=(info.lag or 0) - left, reflections=Reflections(mode, left, right, inner))
