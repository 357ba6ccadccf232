"""Rules for windows over time, with earlier frames: convolutions, `unfold`, transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import fx

from rnn_export.export.lift.ir.dependence.axis_table import AxisEffect, windows_of
from rnn_export.export.lift.ir.fx_nodes import END, args_of, aten, named_args, overloads
from rnn_export.export.lift.streaming.alignment import fill_missing, keep_history, pad_start, trim
from rnn_export.export.lift.streaming.ends import as_late_as_known, fill_after_end
from rnn_export.export.lift.streaming.framewise_rule import general
from rnn_export.export.lift.streaming.reach import Reach, has_a_window_for_each_frame, may_be_time
from rnn_export.export.lift.streaming.reflect_padding import mirrored, with_padding
from rnn_export.export.lift.streaming.rule_context import StreamingContext, rule
from rnn_export.export.lift.streaming.time_axis import NodeInfo, TimeAxisInfo, refusal


@dataclass(frozen=True)
class Window:
    """A window over `size` frames, every `stride`, of a sequence with `left` and `right` zeros around it."""

    size: int
    stride: int
    left: int = 0
    right: int = 0


def window_reach(node: fx.Node) -> Reach:
    """The largest size and stride over the axes that may be time."""
    return _largest(node, [Reach(window.span - 1, window.stride) for window in _traced_windows(node)])


def _traced_windows(node: fx.Node) -> Sequence[AxisEffect]:
    return windows_of(node, lambda n: n.meta["val"].shape if isinstance(n, fx.Node) and "val" in n.meta else None)


def _by_axis(numbers: Sequence[int], axes: int) -> list[int]:
    return [*numbers] * (axes if len(numbers) == 1 else 1)


def _largest(node: fx.Node, reaches: Sequence[Reach]) -> Reach:
    """The largest of `reaches` along axes that may be time."""
    chosen = [r for axis, r in enumerate(reaches, -len(reaches)) if may_be_time(args_of(node)[0], axis)]
    return Reach(max((r.frames for r in chosen), default=0), max((r.stride for r in chosen), default=1))


@rule(*overloads("conv1d conv1d.padding conv2d conv2d.padding conv3d"), reach=window_reach, takes_reflections=True)
def convolution(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """A window, with its own padding over time."""
    value, axes = args_of(node)[0], len(context.windows(node))
    place = context.time_among_last(value, axes)
    if place is None:
        return general(context, node)
    window = window_of(context, node, place)
    if window.left or window.right:
        take_out_padding(node, place, axes)
    return slide(context, node, window)


def _unfold_reach(node: fx.Node) -> Reach:
    value, dim, size, stride = args_of(node)
    if has_a_window_for_each_frame(node):
        return Reach(0, stride)
    return Reach(size, stride) if may_be_time(value, dim) else Reach()


@rule(aten.unfold.default, reach=_unfold_reach, takes_reflections=True)
def unfold(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """Windows as a new axis, which stay together."""
    value, dim, size, stride = args_of(node)
    if not context.has_time_along(value, dim):
        return general(context, node)
    return slide(context, node, Window(int(size), int(stride)))


def slide(
    context: StreamingContext,
    node: fx.Node,
    window: Window,
    fill: float = 0.0,
    last: float | None = None,
    beyond: int = 0,
) -> TimeAxisInfo:
    """Keep the frames of earlier steps for a window over the first argument of `node`; `fill` is its padding.

    The padding from `beyond` frames after the last frame on is `last`, if that is given.
    """
    value = args_of(node)[0]
    info = context.timed(value)
    # A window over entries of which a frame has several reads no whole frames.
    if info.reflections is not None and info.layout.inner == 1 and not (window.left or window.right):
        value = mirrored(context, value, window.size, window.stride, node)
        node.update_arg(0, value)
        return context.timed(value).windowed(window.size, window.stride)[0]
    value = with_padding(context, value, node)
    entries = context.timed(value).by_entry()
    value = context.alias(value, entries if window.right else entries.moving(), node)
    if window.right:
        value = fill_after_end(context, value, fill if last is None else last, node, beyond)
    if window.left:
        value = pad_start(context, value, window.left, fill, node)
    info = context.timed(value)
    result, history = info.windowed(window.size, window.stride)
    if history > info.history:
        why = f"the {history} frames before each window of {window.size}"
        value = keep_history(context, trim(context, value, 0, node), history, node, "frames", why)
    else:
        value = trim(context, value, history, node)
    node.update_arg(0, value)
    return result


def window_of(context: StreamingContext, node: fx.Node, place: int) -> Window:
    """The window of a convolution or pool over the axis of index `place` among its axes."""
    padding = named_args(node)["padding"]
    window = context.windows(node)[place]
    size, stride = window.span, window.stride
    if isinstance(padding, str):
        total = size - 1 if padding == "same" else 0
        return Window(size, stride, total // 2, total - total // 2)
    around = int(padding[place] if len(padding) > 1 else padding[0])
    return Window(size, stride, around, around)


def take_out_padding(node: fx.Node, place: int, axes: int) -> None:
    """Make `node` a convolution or pool without padding over time."""
    given = named_args(node)
    pads = given["padding"]
    if isinstance(pads, str):
        if axes > 1:
            raise refusal(
                node, 'padding="same" in several axes, one of them time: give the numbers.', id="same-padding-with-time"
            )
        node.target, pads = aten.conv1d.default, [0]
    pads = [*(pads if len(pads) == axes else pads * axes)]
    pads[place] = 0
    node.args = tuple({**given, "padding": pads}.values())


def _transposed_reach(node: fx.Node) -> Reach:
    """Frames of the argument, each of which makes `stride`."""
    return _largest(node, [Reach(-(-(window.span - 1) // window.stride)) for window in _traced_windows(node)])


def _first_taken(node: fx.Node, axis: int) -> int:
    """The first index along `axis` of the result of `node` that is used, where all users are cuts along it."""
    cuts = [args_of(user) for user in node.users if user.target is aten.slice.Tensor]
    starts = [start for _, along, start, *_ in cuts if along % node.meta["val"].dim() == axis and type(start) is int]
    return max(min(starts), 0) if starts and len(starts) == len(node.users) else 0


@rule(*overloads("conv_transpose1d conv_transpose2d.input"), reach=_transposed_reach, takes_reflections=True)
def transposed(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """Each frame makes several: those of a step are added to what the steps before make of the same frames."""
    value, given, windows = args_of(node)[0], named_args(node), context.windows(node)
    place = context.time_among_last(value, len(windows))
    if place is None:
        return general(context, node)
    names = ("stride", "padding", "output_padding", "dilation")
    numbers = {name: _by_axis(given[name], len(windows)) for name in names}
    size, stride, cut = windows[place].span, windows[place].stride, numbers["padding"][place]
    if size < stride:
        raise refusal(
            node, f"its window of {size} frames is smaller than its stride of {stride}.", id="window-below-stride"
        )
    numbers["padding"][place] = numbers["output_padding"][place] = 0
    history = (size - 1) // stride
    if context.timed(value).reflections is not None:
        # Frames that no window of `history` more frames makes are cut off: the padding is filled in where one reads it.
        whole = _first_taken(node, context.timed(value).layout.axis) + cut >= history * stride
        value = mirrored(context, value, history + 1 if whole else 1, 1, node)
    info = context.timed(value).by_entry()
    value = context.alias(value, as_late_as_known(context, value, info), node)
    if size > stride:
        # Nothing before the first frames and behind the last ones adds to what these make.
        value = fill_after_end(context, value, 0.0, node)
        if (context.timed(value).lag or 0) > 0:
            value = fill_missing(context, value, 0.0, node)
    result = replace(context.timed(value), layout=info.layout).expanded(stride, cut)
    if history > context.timed(value).history:
        why = f"the {history} frames that add to the next"
        value = keep_history(context, trim(context, value, 0, node), history, node, "frames", why)
    else:
        value = trim(context, value, history, node)
    expanded = context.insert(node, node.target, *{**given, **numbers, next(iter(given)): value}.values())
    expanded.meta = {k: v for k, v in node.meta.items() if k != "val"}
    end = stride - size if size > stride else END
    node.target, node.args = aten.slice.Tensor, (expanded, info.layout.axis, history * stride, end)
    return result
