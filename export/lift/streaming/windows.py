"""Windows, padding, cuts and joins over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.program.fx import END, args_of, aten, named_args, place_of
from rnn_export.export.lift.streaming.context import TRANSPOSED, WINDOWS
from rnn_export.export.lift.streaming.frames import Last, Timed, positive
from rnn_export.export.lift.streaming.keeping import Keeping
from rnn_export.export.lift.streaming.reasons import name_of
from rnn_export.export.lift.streaming.recorded import BASE, BATCH, LONGER, MORE


class Windows(Keeping):
    """What moves frames."""

    def window(self, node: fx.Node) -> None:
        value = args_of(node)[0]
        assert isinstance(value, fx.Node)
        info = self.plain(value)
        size, stride, padding = self.window_of(node, info)
        if info.lag is None:
            info = replace(info, lag=0)
        left, right, fill = padding
        if right:
            self.ahead.append(f"{place_of(node)} looks {right} frames ahead (padding on the right)")
        with self.graph.inserting_before(node):
            value = self.alias(value, info)
        if left:
            value = self.padded(value, left, fill, node)
        info = self.info[value]
        lag = (info.lag + size - 1) // stride
        past = stride * lag - info.lag
        if past > info.past:
            value = self.trimmed(value, 0, node)
            why = f"the {past} frames before each window of {size}"
            joined = self.with_past(value, past, node, "frames", why)
        else:
            joined = self.trimmed(value, past, node)
        node.update_arg(0, joined)
        rate = info.rate / stride
        self.multiple = math.lcm(self.multiple, rate.denominator)
        waited = lag - (info.soonest + size - 1) // stride
        self.info[node] = replace(info, rate=rate, lag=lag, past=0, waited=waited)

    def transposed(self, node: fx.Node) -> None:
        """A transposed convolution makes `stride` frames of each, which add to those of the frames after it."""
        value, given = args_of(node)[0], named_args(node)
        info = self.plain(value)
        place = info.axis - (self.values[BASE][value].dim() - TRANSPOSED[node.target])
        numbers = {
            name: [*given[name]] * (TRANSPOSED[node.target] if len(given[name]) == 1 else 1)
            for name in ("stride", "padding", "output_padding", "dilation")
        }
        stride, cut = numbers["stride"][place], numbers["padding"][place]
        size = numbers["dilation"][place] * (self.values[BASE][given["weight"]].shape[2 + place] - 1) + 1
        if size < stride:
            raise self.refuse(node, f"its window of {size} frames is smaller than its stride of {stride}.")
        past = (size - 1) // stride
        with self.graph.inserting_before(node):
            plain = self.alias(value, replace(info, lag=info.lag or 0))
        plain = self.trimmed(plain, 0, node)
        joined = (
            self.with_past(plain, past, node, "frames", f"the {past} frames that add to the next") if past else plain
        )
        numbers["padding"][place] = numbers["output_padding"][place] = 0
        known = {**given, **numbers, next(iter(given)): joined}
        node.args = tuple(known.values())
        lag = (info.lag or 0) * stride + cut
        result = replace(info, rate=info.rate * stride, lag=lag, past=0, waited=info.waited * stride)
        with self.graph.inserting_after(node):
            end = stride - size if size > stride else END
            whole = self.graph.call_function(aten.slice.Tensor, (node, info.axis, past * stride, end))
        node.replace_all_uses_with(whole, delete_user_cb=lambda user: user is not whole)
        self.stand_in(whole, node, result)

    def window_of(self, node: fx.Node, info: Timed) -> tuple[int, int, tuple[int, int, float]]:
        """Size and stride of a window in frames, and (left, right, value) of the padding, taken out of `node`."""
        if node.target is aten.unfold.default:
            return int(args_of(node)[2]), int(args_of(node)[3]), (0, 0, 0.0)
        rank = self.values[BASE][args_of(node)[0]].dim()
        dims = WINDOWS[node.target]
        place = info.axis - (rank - dims)
        given = named_args(node)

        def at(name: str, usual: int) -> int:
            values = given.get(name)
            return usual if not values else int(values[place] if len(values) > 1 else values[0])

        convolution = "weight" in given
        kernel = self.values[BASE][given["weight"]].shape[2 + place] if convolution else at("kernel_size", 1)
        size = at("dilation", 1) * (kernel - 1) + 1
        stride = at("stride", 1 if convolution else kernel)
        padding = given.get("padding")
        if isinstance(padding, str):
            total = size - 1 if padding == "same" else 0
            left, right = total // 2, total - total // 2
        else:
            left = right = at("padding", 0)
        if left or right:
            if not convolution:
                raise self.refuse(node, f"{name_of(node)} pads over time at both ends: pad on the left, before it.")
            self.without_padding(node, place, dims, given)
        return size, stride, (left, right, 0.0)

    def without_padding(self, node: fx.Node, place: int, dims: int, given: Mapping[str, Any]) -> None:
        """Take the padding over time out of `node`."""
        pads = given["padding"]
        if isinstance(pads, str):
            if dims > 1:
                raise self.refuse(node, 'padding="same" in several axes, one of them time: give the numbers.')
            node.target, pads = aten.conv1d.default, [0]
        pads = [*(pads if len(pads) == dims else pads * dims)]
        pads[place] = 0
        known = {**named_args(node), **given, "padding": pads}
        node.args = tuple(known[name] for name in named_args(node))

    def pad(self, node: fx.Node) -> None:
        value, pads, *rest = args_of(node)
        assert isinstance(value, fx.Node)
        mode, fill = "constant", 0.0
        for given in rest:
            if isinstance(given, str):
                mode = given
            elif given is not None:
                fill = float(given)
        info = self.plain(value)
        rank = self.values[BASE][value].dim()
        place = 2 * (rank - 1 - info.axis)
        left, right = pads[place : place + 2]
        if mode != "constant":
            raise self.refuse(node, f"padding over time by {mode} takes frames that come later: pad with a constant.")
        if right > 0:
            self.ahead.append(f"{place_of(node)} looks {right} frames ahead (padding on the right)")
        others = [0 if i in (place, place + 1) else p for i, p in enumerate(pads)]
        node.args = (value, others, *rest)
        self.cut_or_pad(node, info, left, fill)
        if not any(others):
            node.target, node.args = aten.alias.default, (args_of(node)[0],)

    def cut_or_pad(self, node: fx.Node, info: Timed, left: int, fill: float) -> None:
        """`node` becomes its argument with `left` more frames at the beginning of the sequence, or so many less."""
        value = args_of(node)[0]
        assert isinstance(value, fx.Node)
        if left > 0 and (info.lag or 0) > 0:
            filled = self.filled(value, fill, node)
            node.update_arg(0, filled)
            info = replace(self.plain(filled), past=0)
        lag = None if info.lag is None and fill == 0 and left <= 0 else (info.lag or 0) - left
        self.info[node] = replace(info, lag=lag)

    def padded(self, value: fx.Node, left: int, fill: float, before: fx.Node) -> fx.Node:
        """A node of ours with `left` more frames at the beginning."""
        with self.graph.inserting_before(before):
            node = self.graph.call_function(aten.alias.default, (value,))
        node.meta = {k: v for k, v in before.meta.items() if k != "val"}
        axis = self.info[value].axis
        for run in self.values:
            whole = run[value]
            shape = [left if a == axis else n for a, n in enumerate(whole.shape)]
            run[node] = torch.cat([whole.new_full(shape, fill), whole], axis)
        self.cut_or_pad(node, self.info[value], left, fill)
        return node

    def filled(self, value: fx.Node, fill: float, before: fx.Node) -> fx.Node:
        """`value` with `fill` in place of the frames that do not exist yet."""
        settled = self.settled(value, before)
        info = self.info[settled]
        axis = [
            a
            for a, (m, n) in enumerate(
                zip(self.values[BASE][settled].shape, self.values[MORE][settled].shape, strict=True)
            )
            if m != n
        ]
        rank = self.values[BASE][settled].dim()
        if len(axis) != 1 or self.values[BASE][settled].shape[axis[0]] != BATCH:
            raise self.refuse(before, "padding over time of late frames whose batch is merged with another axis.")
        with self.graph.inserting_before(before):
            ready = self.after_frames(info.late, rank)
            shape = [-1 if a == axis[0] else 1 for a in range(rank)]
            ready = self.graph.call_function(aten.reshape.default, (ready, shape))
            chosen = self.graph.call_function(aten.where.ScalarOther, (ready, settled, fill))
        return self.stand_in(chosen, settled, info)

    def cut(self, node: fx.Node) -> None:
        value = args_of(node)[0]
        assert isinstance(value, fx.Node)
        info = self.plain(value)
        size = self.values[BASE][value].shape[info.axis]
        start, step = self.bounds(node, 2, 0), self.bounds(node, 4, 1)
        longer = self.values[LONGER][value].shape[info.axis]
        kept, more = (int(run[node].shape[info.axis]) for run in (self.values[BASE], self.values[LONGER]))
        if kept == more:
            if start[0] - size != start[1] - longer and not (start[0] < 0 and start[0] == start[1]):
                raise self.refuse(
                    node, "it takes a fixed part of the sequence, which a stream has no beginning or end for."
                )
            if kept > info.past + 1:
                raise self.refuse(
                    node, f"it takes the last {kept} frames of the sequence: keep them in a buffer, or pad on the left."
                )
            self.info[node] = Last(Fraction(info.lag or 0) / info.rate)
            node.args = (value, info.axis, -kept, END)
            return
        first, later = (n if n >= 0 else n + whole for n, whole in zip(start, (size, longer), strict=True))
        if first != later or step[0] < 1 or (step[0] == 1 and more - kept != longer - size):
            raise self.refuse(node, "it cuts the sequence at a place that depends on its length.")
        node.target, node.args = aten.alias.default, (value,)
        self.cut_or_pad(node, info, -first, 0.0)
        if step[0] > 1:
            self.decimated(node, step[0])

    def bounds(self, node: fx.Node, index: int, usual: int) -> tuple[int, int]:
        given = args_of(node)[index] if len(node.args) > index else None
        if isinstance(given, fx.Node):
            return self.values[BASE][given], self.values[LONGER][given]
        return (usual, usual) if given is None else (int(given), int(given))

    def decimated(self, node: fx.Node, step: int) -> None:
        """Every `step`th frame of what `node` is an alias of."""
        info = self.info[node]
        source = args_of(node)[0]
        assert isinstance(source, fx.Node)
        lag = (info.lag or 0) // step
        past = step * lag - (info.lag or 0)
        if past > info.past:
            raise self.refuse(
                node, "it takes every other frame from one that is known before its time: pad after that."
            )
        with self.graph.inserting_before(node):
            front = self.graph.call_function(aten.slice.Tensor, (source, info.axis, info.past - past, END))
        node.target, node.args = aten.slice.Tensor, (front, info.axis, 0, END, step)
        rate = info.rate / step
        self.multiple = math.lcm(self.multiple, rate.denominator)
        self.info[node] = replace(info, rate=rate, lag=lag, past=0, waited=lag - info.soonest // step)

    def select(self, node: fx.Node) -> None:
        value, _, index = args_of(node)
        assert isinstance(value, fx.Node)
        info = self.plain(value)
        at = [self.values[run][index] if isinstance(index, fx.Node) else int(index) for run in (BASE, LONGER)]
        sizes = [self.values[run][value].shape[info.axis] for run in (BASE, LONGER)]
        if any(i not in (-1, n - 1) for i, n in zip(at, sizes, strict=True)):
            raise self.refuse(node, f"it takes frame {at[0]} of the sequence alone: a stream has only the newest one.")
        node.update_arg(2, -1)
        self.info[node] = Last(Fraction(info.lag or 0) / info.rate)

    def cat_axis(self, node: fx.Node) -> int:
        dim = args_of(node)[1] if len(node.args) > 1 else 0
        return positive(dim, self.values[BASE][node].dim())

    def cat(self, node: fx.Node) -> None:
        parts = [n for n in args_of(node)[0] if self.values[BASE][n].numel()]
        axis = self.cat_axis(node)
        timed = [i for i, n in enumerate(parts) if self.time_axis(n) == axis]
        if len(timed) != 1 or any(
            isinstance(self.info.get(n), Timed | Last) for i, n in enumerate(parts) if i not in timed
        ):
            raise self.refuse(
                node, "it joins two sequences one behind the other: a stream has no end at which to do so."
            )
        value, front, back = parts[timed[0]], parts[: timed[0]], parts[timed[0] + 1 :]
        if back:
            frames = sum(self.values[BASE][n].shape[axis] for n in back)
            self.ahead.append(f"{place_of(node)} looks {frames} frames ahead (frames joined behind)")
        info = self.plain(value)
        frames = sum(self.values[BASE][n].shape[axis] for n in front)
        if any(n in self.from_state for n in front):
            # The model keeps its own past.
            value = self.trimmed(value, 0, node)
            node.args = ([*front, value], axis)
            info = self.plain(value)
            self.info[node] = replace(info, lag=(info.lag or 0) - frames, past=frames)
            return
        if any(n in self.from_input for n in front):
            raise self.refuse(node, "it puts frames before the sequence that are computed from the input.")
        joined = torch.cat([self.values[BASE][n] for n in front], axis) if front else torch.zeros(1)
        if (info.lag or 0) > 0 and front and float(joined.min()) != float(joined.max()):
            raise self.refuse(node, "it puts frames that are not all the same before a sequence that is late.")
        node.target, node.args = aten.alias.default, (value,)
        self.cut_or_pad(node, info, frames, float(joined.detach().flatten()[0]))
