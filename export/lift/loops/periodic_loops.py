"""Rewrites a loop that repeats with a period of several frames as a loop over whole periods.

    for t in range(x.shape[1]):
        h = first(x[:, t], h) if t % 2 == 0 else second(x[:, t], h)

or a loop over segments:

    for start in range(0, x.shape[1], 4):
        y, h = gru(x[:, start : start + 4], h)

In the unrolled graph frames, and segments of several, are taken from windows of one period each. Results, any number
for each period, are joined by period first. Over these windows it is a loop like any other. The last period of a
sequence may be short: its padding comes after all frames, and the results of the padding are cut off.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten, placeholders, size_of
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.loops.align_traces import unlike_frames
from rnn_export.export.lift.loops.folded_sizes import by_steps
from rnn_export.export.lift.loops.frame_segments import (
    CUT,
    FILLED,
    Taken,
    Window,
    computed_alike,
    cut,
    joins_segments,
    take_segments,
    taken_of,
)
from rnn_export.export.lift.loops.loop_iterations import JOINS
from rnn_export.export.lift.loops.store_forwarding import read_written_frames


def loops_of(module: fx.GraphModule) -> Counter[int]:
    """Count, by length, the values of an unrolled graph that are split or joined by frame."""
    read_written_frames(module.graph)
    joined = (args_of(n)[0] for n in module.graph.nodes if n.target in JOINS)
    found = Counter(len(segments) for segments in joined if isinstance(segments, list | tuple))
    for node in module.graph.nodes:
        shape = getattr(node.meta.get("val"), "shape", ())
        found.update(n for n in shape if isinstance(n, int) and _taken(node, n, 1))
    return found


def by_periods(module: fx.GraphModule, frames: int, period: int) -> None:
    """Let a graph unrolled over `frames` frames, whole periods, take and join them by period, in place.

    With a `period` of one frame only windows that overlap and several results of a frame are rewritten.
    """
    read_written_frames(module.graph)
    write, joins, is_left = NodeWriter(module, "period"), list[fx.Node](), False
    for node in list(module.graph.nodes):
        value, taken = node, _taken(node, frames, period)
        if (several := _segments_per_period(node, frames, period)) > 1:
            _join(write, node, several, period, taken)
            continue
        if joins_segments(node, frames, period):
            joins.append(node)
            value = cut(write, node)
        is_left |= take_segments(write, value, frames, period)
        for axis, takes in taken.items() if period > 1 else ():
            _take(write, node, axis, takes, period)
    if is_left:
        computed_alike(module.graph, joins)
    _ask_inputs_for_sizes(module.graph)
    # Fused attention may draw, and stays unless it is said that it does nothing else.
    module.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))


def _ask_inputs_for_sizes(graph: fx.Graph) -> None:
    """Read a size that an input has from the input, and not from a value inside an iteration."""
    fed = placeholders(graph)
    of_inputs = {str(size): n for n in reversed(fed) for size in n.meta["val"].shape if not isinstance(size, int)}
    for node in [n for n in graph.nodes if n.target is aten.sym_size.int and n.all_input_nodes[0] not in fed]:
        size = node.all_input_nodes[0].meta["val"].shape[node.args[1]]
        if (source := of_inputs.get(str(size))) is not None:
            with graph.inserting_before(fed[-1].next):
                node.replace_all_uses_with(size_of(source, size))


def _taken(node: fx.Node, frames: int, period: int) -> Mapping[int, Sequence[Taken]]:
    """By axis of a value, the parts taken of it that lie within one period, if there are some in each."""
    shape = getattr(node.meta.get("val"), "shape", ())
    found: dict[int, list[Taken]] = {}
    for axis, taken in taken_of(node).items():
        if shape[axis] == frames:
            found[axis] = [t for t in taken if t.start // period == (t.end - 1) // period and t.is_part_of(period)]
    periods = {*range(frames // period)}
    return {axis: taken for axis, taken in found.items() if {t.start // period for t in taken} == periods}


def _take(write: NodeWriter, node: fx.Node, axis: int, takes: Sequence[Taken], period: int) -> None:
    """Take parts of periods of `node` from its windows."""
    windows, rank = Window(node, axis, period).of(write, node, axis), len(node.meta["val"].shape)
    _take_of(write, windows, (axis, rank - 1), takes, period)


def _take_of(write: NodeWriter, windows: fx.Node, axes: tuple[int, int], takes: Sequence[Taken], period: int) -> None:
    """Take parts from `windows`: the window along the first of `axes`, then the frames along the second."""
    for user, start, end, drops_axis in takes:
        write.at = user
        with user.graph.inserting_before(user):
            new = write.call(aten.select.int, windows, axes[0], start // period)
            if drops_axis:
                new = write.call(aten.select.int, new, axes[1], start % period)
            else:
                new = write.call(aten.slice.Tensor, new, axes[1], start % period, start % period + end - start)
                if axes[0] != axes[1]:
                    rest = range(axes[1])
                    new = write.call(aten.permute.default, new, [*rest[: axes[0]], axes[1], *rest[axes[0] :]])
        user.replace_all_uses_with(new)


def _segments_per_period(node: fx.Node, frames: int, period: int) -> int:
    """The number of segments that `node` joins of each period: of all its frames, or of some single ones; else 0."""
    segments = args_of(node)[0] if node.target in JOINS else ()
    several, more = divmod(len(segments), frames // period) if isinstance(segments, list | tuple) else (0, 0)
    if more or several < 2 or not all(isinstance(segment, fx.Node) for segment in segments):
        return 0
    if node.target is aten.stack.default or len(segments) == frames:
        return several
    sizes = [segment.meta["val"].shape[[*args_of(node), 0][1]] for segment in segments]
    return several if all(sum(sizes[at : at + several]) == period for at in range(0, len(sizes), several)) else 0


def _join(write: NodeWriter, node: fx.Node, several: int, period: int, taken: Mapping[int, Sequence[Taken]]) -> None:
    """Let `node` join the segments of each period, then the periods, from which what is `taken` is read."""
    segments, dim = list(args_of(node)[0]), args_of(node)[1] if len(node.args) > 1 else 0
    dim %= len(node.meta["val"].shape)
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    write.at, periods = node, []
    for start in range(0, len(segments), several):
        some = segments[start : start + several]
        last = max(some, key=lambda n: order.get(n, -1))
        with node.graph.inserting_after(last):
            periods.append(write.call(node.target, some, dim))
    with node.graph.inserting_before(node):
        joined = write.call(aten.stack.default, periods, dim)
        shape = write.value_of(joined).shape
        sizes = [n if isinstance(n, int) else write.call(aten.sym_size.int, joined, a) for a, n in enumerate(shape)]
        whole = write.call(aten.reshape.default, joined, [*sizes[:dim], -1, *sizes[dim + 2 :]])
    whole.meta[CUT] = dim, shape[dim + 1]
    _take_of(write, joined, (dim, dim), taken.get(dim, ()), period)
    node.replace_all_uses_with(whole)


def end_short(module: fx.GraphModule, grown: Mapping[int, Sequence[int]], short: int) -> None:
    """Let a rolled graph take sequences with a short last period, in place; raises LiftError without windows.

    `grown` has the frames that are joined of each length, from `short` frames to a period more, by those of a period.
    """
    graph, fed = module.graph, None
    for node in list(graph.nodes):
        if FILLED in node.meta:
            axis, period, more, right = node.meta[FILLED]
            with graph.inserting_before(node):
                length = graph.call_function(aten.sym_size.int, (node.args[0], axis))
                if more:
                    length = graph.call_function(operator.sub, (length, more))
                rest = graph.call_function(operator.mod, (graph.call_function(operator.neg, (length,)), period))
                if right:
                    rest = graph.call_function(operator.add, (rest, right))
            value, pads = args_of(node)[:2]
            node.args = (value, [*pads[:-1], rest])
            fed = fed or length
        if CUT in node.meta and fed is not None:
            dim, frames = node.meta[CUT]
            with graph.inserting_before(node):
                end = by_steps(graph, fed, grown[frames], short) if frames in grown else fed
            with graph.inserting_after(node):
                cut = graph.call_function(aten.slice.Tensor, (node, dim, 0, end))
            cut.meta = {key: known for key, known in node.meta.items() if key not in ("val", CUT)}
            node.replace_all_uses_with(cut, lambda user, cut=cut: user is not cut)
    if fed is None:
        raise unlike_frames()
    graph.lint()
    module.recompile()
