"""Transposed convolutions over time: each frame makes several, which add to those of the frames after it."""

from __future__ import annotations

from typing import Any

from torch import fx

from rnn_export.export.lift.program.fx import END, args_of, aten, named_args
from rnn_export.export.lift.streaming.alignment import keep_history, trim
from rnn_export.export.lift.streaming.context import StreamingContext
from rnn_export.export.lift.streaming.general import general
from rnn_export.export.lift.streaming.reasons import refusal
from rnn_export.export.lift.streaming.registry import Reach, rule
from rnn_export.export.lift.streaming.time_axis import NodeInfo

# Over how many of the last axes it goes.
TRANSPOSED_AXES: dict[Any, int] = {aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 2}


def _reach(node: fx.Node) -> Reach:
    given = named_args(node)
    return Reach(max(given["weight"].meta["val"].shape[2:]) * max(given["dilation"]))


@rule(*TRANSPOSED_AXES, reach=_reach)
def transposed(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """The frames that a step makes are added up with what the steps before make of the same frames."""
    value, given, axes = args_of(node)[0], named_args(node), TRANSPOSED_AXES[node.target]
    place = context.time_among_last(value, axes)
    if place is None:
        return general(context, node)
    names = ("stride", "padding", "output_padding", "dilation")
    numbers = {name: [*given[name]] * (axes if len(given[name]) == 1 else 1) for name in names}
    stride, cut = numbers["stride"][place], numbers["padding"][place]
    size = numbers["dilation"][place] * (context.runs.base[given["weight"]].shape[2 + place] - 1) + 1
    if size < stride:
        raise refusal(node, f"its window of {size} frames is smaller than its stride of {stride}.")
    numbers["padding"][place] = numbers["output_padding"][place] = 0
    info = context.timed(value).by_entry()
    history = (size - 1) // stride
    value = trim(context, context.alias(value, info.moving(), node), 0, node)
    if history:
        value = keep_history(context, value, history, node, "frames", f"the {history} frames that add to the next")
    expanded = context.insert(node, node.target, *{**given, **numbers, next(iter(given)): value}.values())
    expanded.meta = {k: v for k, v in node.meta.items() if k != "val"}
    end = stride - size if size > stride else END
    node.target, node.args = aten.slice.Tensor, (expanded, info.layout.axis, history * stride, end)
    return info.expanded(stride, cut)
