"""Rewrites a loop that repeats with a period of several frames as a loop over whole periods.

    for t in range(x.shape[1]):
        h = first(x[:, t], h) if t % 2 == 0 else second(x[:, t], h)

or a loop over segments:

    for start in range(0, x.shape[1], 4):
        y, h = gru(x[:, start : start + 4], h)

In the unrolled graph frames are taken from windows of one period each, and joined by period first: over these windows
it is a loop like any other. The last period of a sequence may be short: its padding comes after all frames, and the
results of the padding are cut off.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping

from torch import fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten, placeholders, size_of
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.takes import takes_of
from rnn_export.export.lift.loops.align_traces import unlike_frames
from rnn_export.export.lift.loops.frame_segments import (
    CUT,
    FILLED,
    Window,
    computed_alike,
    cut,
    joins_segments,
    take_segments,
)
from rnn_export.export.lift.loops.loop_iterations import JOINS
from rnn_export.export.lift.loops.store_forwarding import read_written_frames
from rnn_export.export.lift.loops.value_references import Ref, resolve


def loops_of(module: fx.GraphModule) -> Counter[int]:
    """Count, by length, the values of an unrolled graph that are split or joined by frame."""
    read_written_frames(module.graph)
    joined = (args_of(n)[0] for n in module.graph.nodes if n.target in JOINS)
    found = Counter(len(segments) for segments in joined if isinstance(segments, list | tuple))
    for node in module.graph.nodes:
        shape = getattr(node.meta.get("val"), "shape", ())
        found.update(n for n in shape if isinstance(n, int) and _taken(node, n))
    return found


def by_periods(module: fx.GraphModule, frames: int, period: int) -> None:
    """Let a graph unrolled over `frames` frames, whole periods, take and join them by period, in place."""
    read_written_frames(module.graph)
    write, joins, is_left = NodeWriter(module, "period"), list[fx.Node](), False
    for node in list(module.graph.nodes):
        value, taken = node, _taken(node, frames)
        if node.target in JOINS and isinstance(args_of(node)[0], list | tuple) and len(args_of(node)[0]) == frames:
            _join(write, node, period, taken)
            continue
        if joins_segments(node, frames, period):
            joins.append(node)
            value = cut(write, node)
        is_left |= take_segments(write, value, frames, period)
        for axis, takes in taken.items():
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


def _taken(node: fx.Node, frames: int) -> Mapping[int, dict[fx.Node, Ref]]:
    """By axis of a value, the nodes that take one frame each, if all are taken."""
    shape = getattr(node.meta.get("val"), "shape", ())
    found: dict[int, dict[fx.Node, Ref]] = {}
    for user, _ in takes_of(node):
        ref = resolve(user)
        if ref.base is node and len(ref.path) == 1 and ref.path[0].kind != "item":
            axis = ref.path[0].axis
            if isinstance(shape[axis], int) and shape[axis] == frames:
                found.setdefault(axis, {})[user] = ref
    return {a: t for a, t in found.items() if {r.path[0].entry % frames for r in t.values()} == {*range(frames)}}


def _take(write: NodeWriter, node: fx.Node, axis: int, takes: Mapping[fx.Node, Ref], period: int) -> None:
    """Take the frames of `node` from its windows."""
    windows, rank = Window(node, axis, period).of(write, node, axis), len(node.meta["val"].shape)
    _take_of(write, windows, (axis, rank - 1), takes, period)


def _take_of(
    write: NodeWriter, windows: fx.Node, axes: tuple[int, int], takes: Mapping[fx.Node, Ref], period: int
) -> None:
    """Take frames from `windows`: the window along the first of `axes`, then the frame along the second."""
    for user, ref in takes.items():
        kind, axis, frame = ref.path[0]
        write.at = user
        with user.graph.inserting_before(user):
            new = write.call(aten.select.int, windows, axes[0], frame // period)
            new = write.call(aten.select.int, new, axes[1], frame % period)
            if kind == "slice":
                new = write.call(aten.unsqueeze.default, new, axis)
        user.replace_all_uses_with(new)


def _join(write: NodeWriter, node: fx.Node, period: int, taken: Mapping[int, Mapping[fx.Node, Ref]]) -> None:
    """Let `node` join the frames of each period, then the periods, from which the frames `taken` are read."""
    segments, dim = list(args_of(node)[0]), args_of(node)[1] if len(node.args) > 1 else 0
    dim %= len(node.meta["val"].shape)
    if not all(isinstance(segment, fx.Node) for segment in segments):
        return
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    write.at, periods = node, []
    for start in range(0, len(segments), period):
        some = segments[start : start + period]
        last = max(some, key=lambda n: order.get(n, -1))
        with node.graph.inserting_after(last):
            periods.append(write.call(node.target, some, dim))
    with node.graph.inserting_before(node):
        joined = write.call(aten.stack.default, periods, dim)
        shape = write.value_of(joined).shape
        sizes = [n if isinstance(n, int) else write.call(aten.sym_size.int, joined, a) for a, n in enumerate(shape)]
        whole = write.call(aten.reshape.default, joined, [*sizes[:dim], -1, *sizes[dim + 2 :]])
    whole.meta[CUT] = dim
    _take_of(write, joined, (dim, dim), taken.get(dim, {}), period)
    node.replace_all_uses_with(whole)


def end_short(module: fx.GraphModule) -> None:
    """Let a rolled graph take sequences with a short last period, in place; raises LiftError without windows."""
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
            with graph.inserting_after(node):
                cut = graph.call_function(aten.slice.Tensor, (node, node.meta[CUT], 0, fed))
            cut.meta = {key: known for key, known in node.meta.items() if key not in ("val", CUT)}
            node.replace_all_uses_with(cut, lambda user, cut=cut: user is not cut)
    if fed is None:
        raise unlike_frames()
    graph.lint()
    module.recompile()
