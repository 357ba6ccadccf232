"""Folds a model's own loop over time, and the graph around it, from its graphs at two lengths."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache

from torch import fx

from rnn_export.errors import LiftError
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.ir.fx_nodes import copied
from rnn_export.export.lift.loops.align_traces import cannot_roll, unlike_frames
from rnn_export.export.lift.loops.folded_sizes import know_sizes
from rnn_export.export.lift.loops.folding.fixed_length_graph import OTHER_ROWS, ROWS, fixed_graph
from rnn_export.export.lift.loops.folding.trace_lengths import FAR, is_right
from rnn_export.export.lift.loops.loop_body import counts_iterations
from rnn_export.export.lift.loops.loop_folding import roll
from rnn_export.export.lift.loops.periodic_loops import by_periods
from rnn_export.export.lift.loops.tables.iteration_index import count_iterations
from rnn_export.export.lift.loops.tables.table_rows import read_tables
from rnn_export.export.lift.rewrite.flat_graph import fold, rewrite_over_time

# Lengths between two at which a loop shows: as many are tried, and so many are exported where one of them is another.
TRIED_BETWEEN = 16
MOST_BETWEEN = 64


def rolled_loop(module: BatchFirst, short: fx.GraphModule, lengths: tuple[int, int]) -> fx.GraphModule:
    """The loop rolled up, from its graph at the shorter of two lengths; raises LiftError if it cannot be."""
    rolled, counts = _rolled(module, short, lengths)
    rewrite_for_any_length(module, rolled, lengths[0])
    if (counts or counts_iterations(rolled)) and is_right(module, rolled, FAR) is False:
        raise cannot_roll(
            f"a number in it follows from the iteration, but not in the same way as far as {FAR} frames",
            id="loop-number-not-linear",
        )
    fold(rolled)
    return rolled


def _rolled(module: BatchFirst, short: fx.GraphModule, lengths: tuple[int, int]) -> tuple[fx.GraphModule, bool]:
    """The rolled graph, and True if it reads counted sequences."""
    first, (few, more) = module.axes.first_time, lengths
    rows = module.axes.rows_in[first[0]]

    def as_it_is(graph: fx.GraphModule, frames: int) -> bool:
        return True

    def counted(graph: fx.GraphModule, frames: int) -> bool:
        return count_iterations(graph, frames, rows, first)

    def in_segments(graph: fx.GraphModule, frames: int) -> bool:
        by_periods(graph, frames, more - few)
        return True

    @cache
    def traced(frames: int) -> fx.GraphModule:
        graph = short if frames == few else fixed_graph(module, frames)
        read_tables(graph, frames, rows, first)
        return graph

    reason = unlike_frames()
    for prepare in (as_it_is, counted, in_segments):

        def unrolled(frames: int, prepare: Callable[[fx.GraphModule, int], bool] = prepare) -> fx.GraphModule | None:
            graph = copied(traced(frames))
            return graph if prepare(graph, frames) else None

        short_one, long = map(unrolled, lengths)
        if short_one is None or long is None:
            continue
        samples = module.sample(ROWS, few), module.sample(ROWS, more)
        try:
            rolled = roll(short_one, long, samples, lengths, first)
        except LiftError as error:
            reason = error if prepare is as_it_is else reason
            continue
        frames = range(few + 1, more)
        tried = frames[:: -(-len(frames) // TRIED_BETWEEN) or 1]
        is_right_between = all(is_right(module, rolled, n) is not False for n in tried)
        if prepare is in_segments and not is_right_between:
            continue
        if len(frames) >= MOST_BETWEEN or is_right_between:
            return rolled, prepare is counted
        # Numbers that follow from the length by steps are those of each length between.
        between = [(graph, module.sample(ROWS, n)) for n in frames if (graph := unrolled(n)) is not None]
        with contextlib.suppress(LiftError):
            rolled = roll(short_one, long, samples, lengths, first, between)
        return rolled, prepare is counted
    raise reason


def rewrite_for_any_length(module: BatchFirst, graph: fx.GraphModule, frames: int) -> None:
    """Rewrite operators that are windows over time as windows, in place, in a graph whose sizes torch has lost.

    `frames` is a length that the model takes.
    """
    for rows in (ROWS, OTHER_ROWS):
        sample = module.sample(rows, frames)
        if know_sizes(graph, sample, [{*axes} for axes in module.dynamic(True)[0]]):
            rewrite_over_time(graph, sample, module.flat.context, module.flat.chunk)
            return
