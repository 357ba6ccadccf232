"""The graph of a model at one length, in which a Python loop over time is unrolled."""

from __future__ import annotations

from torch import Tensor, fx

from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.ir.fx_nodes import args_of, aten
from rnn_export.export.lift.loops.tables.length_tables import look_up_tables
from rnn_export.export.lift.rewrite.flat_graph import flat_graph

# Rows of what a model is exported with; others where a number is made of so many, or they are another size of it.
ROWS, OTHER_ROWS = 3, 2


def fixed_graph(module: BatchFirst, frames: int, recurrences: bool = False) -> fx.GraphModule:
    """`module` over `frames` frames, for any batch; tables that it makes of the length are looked up.

    With `recurrences` operators replace passes that compute such.
    """
    sample = module.sample(ROWS, frames)
    graph = flat_graph(module, sample, module.dynamic(False), False, frames=frames if recurrences else None)
    _leave_out_empty(graph)
    look_up_tables(graph, module.tables, sample)
    return graph


def _leave_out_empty(module: fx.GraphModule) -> None:
    """Remove empty tensors, such as a context of no frames, from joins, in place."""
    for node in [n for n in module.graph.nodes if n.target is aten.cat.default]:
        segments, dim = list(args_of(node)[0]), [*args_of(node), 0][1]
        values = [segment.meta.get("val") for segment in segments]
        full = [p for p, v in zip(segments, values, strict=True) if not (isinstance(v, Tensor) and _is_empty(v, dim))]
        if len(full) == 1 and len(segments) > 1:
            node.replace_all_uses_with(full[0])
        elif full:
            node.update_arg(0, full)
    module.graph.eliminate_dead_code()
    module.recompile()


def _is_empty(value: Tensor, dim: int) -> bool:
    size = value.shape[dim] if value.dim() > 1 else None
    return isinstance(size, int) and size == 0
