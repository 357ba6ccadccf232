"""Rules for pools over time: padding never counts in a maximum, and in a mean if `count_include_pad` is set.

With `ceil_mode` the last window may be incomplete: its missing frames stand behind the last frame, and only the end of
the sequence tells if it is there. Source of the number of windows, and of the divisor of a mean: the docstrings of
torch.nn.MaxPool2d and AvgPool2d.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten, name_of, named_args, overloads
from rnn_export.export.lift.streaming.framewise_rule import general
from rnn_export.export.lift.streaming.rule_context import StreamingContext, rule
from rnn_export.export.lift.streaming.rules.window_rules import Window, slide, take_out_padding, window_of, window_reach
from rnn_export.export.lift.streaming.time_axis import NodeInfo

# Below that of any window that has an entry of its own.
LEAST_SHARE = 1e-6
POOLS = overloads("avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d")


@rule(*POOLS, reach=window_reach, takes_reflections=True)
def pool(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """A window; its padding over time, and that of the last windows, is put around the frames."""
    value, axes, given = args_of(node)[0], len(context.windows(node)), named_args(node)
    place = context.time_among_last(value, axes)
    if place is None:
        return general(context, node)
    window = window_of(context, node, place)
    is_mean, divisor = "avg_pool" in name_of(node), given.get("divisor_override")
    if given["ceil_mode"]:
        window = _with_last(window)
        if is_mean and divisor is None:
            return _means_with_last_windows(context, node, window, place)
        fill = 0.0 if is_mean else _lowest(context, value)
        _of_whole_windows(node, _filled(context, node, value, place, fill), axes)
        return slide(context, node, window, fill)
    if not (window.left or window.right):
        return slide(context, node, window)
    if is_mean and not given["count_include_pad"] and divisor is None:
        return _over_own_frames(context, node)
    take_out_padding(node, place, axes)
    return slide(context, node, window, 0.0 if is_mean else _lowest(context, value))


def _lowest(context: StreamingContext, value: fx.Node) -> float:
    return torch.finfo(context.runs.base[value].dtype).min


def _over_own_frames(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """Means without padding: means that count its zeros, divided by the share of each window that is its own."""
    value, given = args_of(node)[0], {**named_args(node), "count_include_pad": True}
    ones = context.computed(node, value, aten.ones_like.default, value)
    context.info[ones] = context.timed(value)
    means = context.computed(node, node, node.target, *given.values())
    share = context.computed(node, node, node.target, *{**given, "self": ones}.values())
    for part in (means, share):
        context.info[part] = pool(context, part)
    node.target, node.args = aten.div.Tensor, (means, _above_zero(context, node, share))
    return general(context, node)


def _above_zero(context: StreamingContext, node: fx.Node, share: fx.Node) -> fx.Node:
    """`share`, raised above zero where a window has no frame, so that frames outside the sequence are numbers."""
    some = context.insert(node, aten.clamp.default, share, LEAST_SHARE)
    return context.annotate(some, share, context.timed(share))


# --- windows that the end leaves incomplete


def _with_last(window: Window) -> Window:
    """`window` with the right padding that its last one, which begins at a frame or in left padding, may need."""
    return Window(window.size, window.stride, window.left, min(window.size - 1, window.left + window.stride - 1))


def _means_with_last_windows(context: StreamingContext, node: fx.Node, window: Window, place: int) -> NodeInfo:
    """Means over zero-filled windows, divided by the counted share of each: padding may count, no more does."""
    value, axes, counted = args_of(node)[0], len(context.windows(node)), named_args(node)["count_include_pad"]
    ones = context.computed(node, value, aten.ones_like.default, value)
    for axis in (a - axes for a in range(axes) if a != place):
        ones = context.computed(node, value, aten.slice.Tensor, ones, axis, 0, 1)
    context.info[ones] = context.timed(value)
    padding, beyond = (1.0, window.left) if counted else (0.0, 0)
    means, share = (_part(context, node) for _ in range(2))
    _of_whole_windows(means, _filled(context, means, value, place, 0.0), axes)
    context.info[means] = slide(context, means, window)
    _of_whole_windows(share, ones, axes, place)
    context.info[share] = slide(context, share, window, padding, 0.0, beyond)
    others = _shares(context, node, place)
    if others is not None:
        whole = context.insert(node, aten.div.Tensor, means, context.constant(others, node))
        means = context.annotate(whole, means, context.timed(means))
    node.target, node.args = aten.div.Tensor, (means, _above_zero(context, node, share))
    return general(context, node)


def _part(context: StreamingContext, node: fx.Node) -> fx.Node:
    """A copy of `node` before it."""
    return context.annotate(context.insert(node, node.target, *node.args), node, None)


def _of_whole_windows(node: fx.Node, value: fx.Node, axes: int, place: int | None = None) -> None:
    """Make `node` a pool of `value` without padding or incomplete windows, along axis `place` alone if given."""
    given = {**named_args(node), "self": value, "padding": [0] * axes, "ceil_mode": False}
    if "count_include_pad" in given:
        given["count_include_pad"] = True
    if place is not None:
        sizes, strides = given["kernel_size"], given["stride"] or given["kernel_size"]
        for name, numbers in (("kernel_size", sizes), ("stride", strides)):
            along = numbers[place if len(numbers) > 1 else 0]
            given[name] = [along if axis == place else 1 for axis in range(axes)]
    node.args = tuple(given.values())


def _others(context: StreamingContext, node: fx.Node, place: int) -> dict[int, tuple[Window, int, int]]:
    """By axis of the pool that is not time, counted from the end: the window, the axis size, the number of windows."""
    axes, shape = len(context.windows(node)), context.runs.base[args_of(node)[0]].shape
    found = {}
    for axis in (a for a in range(axes) if a != place):
        one, size = _with_last(window_of(context, node, axis)), int(shape[axis - axes])
        found[axis - axes] = one, size, (size + one.left + one.right - one.size) // one.stride + 1
    return found


def _filled(context: StreamingContext, node: fx.Node, value: fx.Node, place: int, fill: float) -> fx.Node:
    """`value` with `fill` around it along all axes of the window but time, as far as windows go."""
    pads = [0, 0] * context.rank(value)
    for axis, (one, size, count) in _others(context, node, place).items():
        last = (count - 1) * one.stride + one.size
        pads[-2 * axis - 2 : -2 * axis] = one.left, max(last - size - one.left, 0)
    if not any(pads):
        return value
    filled = context.computed(node, value, aten.constant_pad_nd.default, value, pads, fill)
    context.info[filled] = context.timed(value)
    return filled


def _shares(context: StreamingContext, node: fx.Node, place: int) -> Tensor | None:
    """The counted share of each window along the axes that are not time; None if it is all of every window."""
    counted, shares = named_args(node)["count_include_pad"], torch.ones(())
    for axis, (one, size, count) in _others(context, node, place).items():
        starts = torch.arange(count) * one.stride - one.left
        ends = (starts + one.size).clamp(max=size + one.left)
        if not counted:
            starts, ends = starts.clamp(min=0), ends.clamp(max=size)
        shares = shares * ((ends - starts) / one.size).reshape(-1, *[1] * (-axis - 1))
    return None if bool((shares == 1).all()) else shares
