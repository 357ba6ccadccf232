"""The rule of frame indices, counted in a state: int64, exact for as long as a stream can live."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import fx

from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout
from rnn_export.export.lift.ir.fx_nodes import FRAME_NUMBERS, args_of, aten
from rnn_export.export.lift.streaming.recorded_runs import BATCH, OTHER_BATCH
from rnn_export.export.lift.streaming.rule_context import StreamingContext, rule
from rnn_export.export.lift.streaming.time_axis import NodeInfo, TimeAxisInfo


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
