"""The operator that makes the rows of a supposed batch depend on each other, for a message."""

from __future__ import annotations

from collections.abc import Sequence

from rnn_export.errors import LiftError, RowsDepend
from rnn_export.export.lift.axes.axes import Axes
from rnn_export.export.lift.axes.axis_probe import layouts
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.batch_rows import follow_rows
from rnn_export.export.lift.ir.fx_nodes import recorded, results
from rnn_export.export.lift.layers.layer_replacement import replace_recurrent
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.rewrite.flat_graph import flat_graph


def where_rows_mix(flat: FlatModel, batch: Sequence[int]) -> str:
    """The operator that mixes rows along the input axes `batch`, as a message; empty if not found."""
    rows = flat.inputs[0].example.shape[batch[0]]
    states = [next(layouts(leaf.example, rows), None) for leaf in flat.states]
    known = tuple(layout for layout in states if layout is not None)
    if len(known) < len(states):
        return ""
    inputs, outputs = (None,) * len(batch), (None,) * len(flat.outputs)
    model = BatchFirst(
        flat.with_model(replace_recurrent), Axes(tuple(batch), inputs, known, (0,) * len(outputs), outputs)
    )
    try:
        graph = flat_graph(model, model.sample(3, 1), model.dynamic(False))
        few, more = (recorded(graph, model.sample(n, 1)) for n in (2, 3))
        grown = [_grown(few[node].shape, more[node].shape) for node in results(graph.graph)]
        follow_rows(graph, few, more, model.axes.rows_in, grown)
    except RowsDepend as error:
        return str(error)
    except (LiftError, RuntimeError):  # sizes that the graph, or its operators, do not take
        return ""
    return ""


def _grown(few: Sequence[int], more: Sequence[int]) -> int:
    return next((axis for axis, (a, b) in enumerate(zip(few, more, strict=False)) if a != b), 0)
