"""One graph for code that pads the last window, and takes another branch over whole windows."""

from __future__ import annotations

from torch import fx

from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.loops.folding.folded_loop import rewrite_for_any_length
from rnn_export.export.lift.loops.folding.trace_lengths import MANY_FRAMES, is_right
from rnn_export.export.lift.rewrite.last_window_padding import filled_up


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
