"""The graph of a model at one length, in which a Python loop over time is written out."""

from __future__ import annotations

from torch import fx

from rnn_export.export.lift.batch_first import BatchFirst
from rnn_export.export.lift.loops.length_tables import look_up_tables
from rnn_export.export.lift.program.flat_graph import flat_graph

ROWS = 3


def fixed_graph(module: BatchFirst, frames: int) -> fx.GraphModule:
    """`module` over `frames` frames, for any batch; the tables that it makes of the length are looked up."""
    sample = module.sample(ROWS, frames)
    graph = flat_graph(module, sample, module.dynamic(False), False)
    look_up_tables(graph, module.tables, sample)
    return graph
