"""Graphs of any length: with linear recurrences in place of passes over the sequence, or with padded last windows."""

from __future__ import annotations

from torch import fx

from rnn_export.errors import LiftError
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.ir.recurrence_operators import LINEAR, LOG_LINEAR, MATRIX
from rnn_export.export.lift.loops.folding.fixed_length_graph import ROWS, fixed_graph
from rnn_export.export.lift.loops.folding.folded_loop import rewrite_for_any_length
from rnn_export.export.lift.loops.folding.trace_lengths import MANY_FRAMES, is_right, lengths_tried
from rnn_export.export.lift.loops.loop_folding import roll
from rnn_export.export.lift.rewrite.flat_graph import fold
from rnn_export.export.lift.rewrite.last_window_padding import filled_up

# Lengths at which values are looked through, which no other axis is likely to have, and others at which it is tried.
SCANNED, BETWEEN = (19, 23), (15, 16, 17, 33)


def by_found_scans(module: BatchFirst) -> fx.GraphModule | None:
    """The model with recurrences in place of passes that compute them; None if it has none, or the graph is wrong."""
    graphs, samples = [], []
    try:
        for frames in SCANNED:
            samples.append(module.sample(ROWS, frames))
            graphs.append(fixed_graph(module, frames, recurrences=True))
            if not any(n.target in (LINEAR, MATRIX, LOG_LINEAR) for n in graphs[-1].graph.nodes):
                return None
        graph = roll(graphs[0], graphs[1], (samples[0], samples[1]), SCANNED, module.axes.first_time)
    except LiftError:
        return None
    rewrite_for_any_length(module, graph, SCANNED[0])
    fold(graph)
    right = all(is_right(module, graph, n) is not False for n in (*lengths_tried(module), *BETWEEN))
    return graph if right else None


def of_whole_windows_too(module: BatchFirst, graph: fx.GraphModule, frames: int) -> fx.GraphModule:
    """`graph`, right over `frames` frames, or a graph that is right over whole windows as well."""
    if (found := filled_up(graph)) is None:
        return graph
    filled, step = found
    whole = next((n for n in range(MANY_FRAMES, MANY_FRAMES + step) if is_right(module, graph, n) is False), None)
    if whole is None or not (is_right(module, filled, whole) and is_right(module, filled, frames)):
        return graph
    rewrite_for_any_length(module, filled, frames)
    return filled
