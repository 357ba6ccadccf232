"""Rules for numbers made of the sequence length, reshapes that take them, `getitem` and frame indices.

A state counts the frames: int64, exact for as long as a stream can live.
"""

from __future__ import annotations

import operator
from fractions import Fraction

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout
from rnn_export.export.lift.ir.fx_nodes import FRAME_NUMBERS, args_of, aten
from rnn_export.export.lift.streaming.framewise_rule import general
from rnn_export.export.lift.streaming.reach import Reach
from rnn_export.export.lift.streaming.recorded_runs import BATCH, OTHER_BATCH
from rnn_export.export.lift.streaming.rule_context import StreamingContext, rule
from rnn_export.export.lift.streaming.time_axis import NodeInfo, TimeAxisInfo


@rule(aten.reshape.default, aten.expand.default, takes_reflections=True)
def reshape(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """It works frame by frame: a size that is the length of the sequence becomes the length of a chunk."""
    has_frames = bool(context.timed_arguments(node))
    info = general(context, node)
    if has_frames and isinstance(info, TimeAxisInfo):
        source, sizes = args_of(node)[0], list(args_of(node)[1])
        if -1 not in sizes or node.target is aten.expand.default:
            sizes[info.layout.axis] = -1
        elif context.is_timed(source) and _as_long(context, node, info, source):
            # It may stand there as an expression of the input's length, which is of whole sequences alone.
            sizes[info.layout.axis] = context.insert(node, aten.sym_size.int, source, context.timed(source).layout.axis)
        node.update_arg(1, sizes)
    return info


def _as_long(context: StreamingContext, node: fx.Node, info: TimeAxisInfo, source: fx.Node) -> bool:
    """True if the time axis of a reshape is as long as that of its argument in both runs."""
    before = context.timed(source).layout
    runs = (context.runs.base, context.runs.longer)
    return all(run[source].shape[before.axis] == run[node].shape[info.layout.axis] for run in runs)


@rule(operator.add, operator.sub)
def constant_part(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """A length plus a constant: for a chunk it is the length alone."""
    if isinstance(context.runs.base[node], Tensor):
        return general(context, node)
    growing = [n for n in node.all_input_nodes if context.runs.grows(n)]
    if len(growing) == 1 and (node.target is operator.add or args_of(node)[0] is growing[0]):
        # Not yet: other nodes are still tried with the numbers of whole sequences.
        context.chunk_length[node] = growing[0]
    return None


def _divisor(node: fx.Node) -> Reach:
    number = args_of(node)[1]
    return Reach(stride=max(number, 1) if type(number) is int else 1)


@rule(operator.floordiv, reach=_divisor)
def quotient(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """A number of segments: their size is a stride."""
    return general(context, node)


@rule(operator.getitem, takes_reflections=True)
def one_of_several(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """The info of one result of an operator that gives several."""
    source, index = args_of(node)
    infos = context.info.get(source)
    return infos[index] if isinstance(infos, list) else general(context, node)


@rule(FRAME_NUMBERS)
def count(context: StreamingContext, node: fx.Node) -> NodeInfo:
    """Count the frames before this step in a state, and number from there."""
    runs, (_, frames) = context.runs, args_of(node)
    sizes = (1, 1) if context.rows.alone else (BATCH, OTHER_BATCH)
    initial = torch.zeros(sizes[0], 1, dtype=torch.int64), torch.zeros(sizes[1], 1, dtype=torch.int64)
    name = context.names.kept(node, "frame")
    before = context.states.add(name, node, initial, node, "counter", "how many frames there were")
    numbers = context.insert(node, aten.arange.default, frames)
    numbered = context.insert(node, aten.add.Tensor, before, numbers)
    newest = context.insert(node, aten.slice.Tensor, numbered, 1, -1, 2**63 - 1)
    context.states.set_next(before, context.insert(node, aten.add.Tensor, newest, 1))
    node.target, node.args = aten.alias.default, (numbered,)
    rate = Fraction(runs.longer[node].shape[1] - runs.base[node].shape[1], runs.longer_frames - runs.frames)
    return TimeAxisInfo(AxisLayout(1), rate)
