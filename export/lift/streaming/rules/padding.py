"""Padding over time: on the left it makes frames known ahead of their time."""

from __future__ import annotations

from torch import fx

from rnn_export.export.lift.program.fx import args_of, aten
from rnn_export.export.lift.streaming.context import StreamingContext
from rnn_export.export.lift.streaming.general import general
from rnn_export.export.lift.streaming.reasons import refusal
from rnn_export.export.lift.streaming.registry import Reach, rule
from rnn_export.export.lift.streaming.sequence_start import shift_start
from rnn_export.export.lift.streaming.time_axis import NodeInfo


def _reach(node: fx.Node) -> Reach:
    return Reach(sum(abs(n) for n in args_of(node)[1] if type(n) is int))


@rule(aten.pad.default, aten.constant_pad_nd.default, reach=_reach)
def pad(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """Padding with a constant moves the start of the sequence; on the right it looks ahead."""
    value, pads, *rest = args_of(node)
    axis = context.time_axis(value)
    if axis is None:
        return general(context, node)
    # Pairs of (before, after), the last axis first.
    place = 2 * (context.rank(value) - 1 - axis)
    over_time = pads[place : place + 2]
    if not any(over_time):
        return general(context, node)
    left, right = over_time
    mode = next((a for a in rest if isinstance(a, str)), "constant")
    if mode != "constant":
        raise refusal(node, f"padding over time by {mode} takes frames that come later: pad with a constant.")
    if right > 0:
        context.note_lookahead(node, right, "padding on the right")
    fill = next((float(a) for a in rest if a is not None and not isinstance(a, str)), 0.0)
    others = [0 if i in (place, place + 1) else n for i, n in enumerate(pads)]
    node.args = (value, others, *rest)
    info = shift_start(context, node, context.timed(value).by_entry(), left, fill)
    if not any(others):
        node.target, node.args = aten.alias.default, (args_of(node)[0],)
    return info
