"""Finds the period of loops that repeat every few frames, and folds such loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import fx

from rnn_export.errors import LiftError
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.ir.fx_nodes import copied
from rnn_export.export.lift.loops.align_traces import cannot_roll, unlike_frames
from rnn_export.export.lift.loops.folding.fixed_length_graph import ROWS, fixed_graph
from rnn_export.export.lift.loops.folding.trace_lengths import is_right, operators, output_frames, runs
from rnn_export.export.lift.loops.loop_folding import roll
from rnn_export.export.lift.loops.periodic_loops import by_periods, end_short, loops_of
from rnn_export.export.lift.loops.ragged_last_chunk import leave_out_filled
from rnn_export.export.lift.loops.unrolled_graph import COPIES

# Frames that a period may have; those before the first that is looked at; and of how many it is seen in haste.
LONGEST, BEGINNING, SEEN = 16, 4, 4
# Pieces that a loop is seen by where a few may all be first ones.
MANY = 12


def periods_of(module: BatchFirst, thorough: bool = True) -> Iterator[int]:
    """The numbers of frames after which a loop repeats, by its operators, and if `thorough` by its integers too.

    None of a loop that does the same at every frame, and unless `thorough` of one whose first `SEEN` frames are alike,
    or that gives different numbers of frames.
    """
    by_operators = _period_of(module, thorough, False)
    if by_operators is not None:
        yield by_operators
    if thorough and (period := _period_of(module, thorough, True)) not in (None, by_operators):
        yield period


def _period_of(module: BatchFirst, thorough: bool, with_integers: bool) -> int | None:
    added: list[Counter[str]] = []
    last = _done(module, BEGINNING, with_integers)
    for frames in range(BEGINNING + 1, BEGINNING + 3 * LONGEST + 1):
        if last is None or (here := _done(module, frames, with_integers)) is None:
            return None
        added.append(here - last)
        last = here
        if not thorough and len(added) == SEEN and all(a == added[0] for a in added):
            return None
    outputs = [str(i) for i in range(len(module.axes.time_out))]
    if not thorough and any(a[i] != added[0][i] for a in added for i in outputs):
        return None
    # The whole of a first piece is no piece, and first ones may have fewer frames before them.
    steady = added[LONGEST:]
    periods = (n for n in range(1, LONGEST + 1) if steady[n:] == steady[:-n])
    period = next(periods, 1)
    return period if period > 1 else None


def _done(module: BatchFirst, frames: int, with_integers: bool = False) -> Counter[str] | None:
    """The number of calls of each operator in a run, and of frames of each output; None if the model fails."""
    try:
        found = operators(module, frames, with_floats=True, with_integers=with_integers)
        with torch.no_grad():
            results = module(*module.sample(2, frames))
    except Exception:  # the user's code may raise anything; a loop without a period is told elsewhere
        return None
    times = enumerate(zip(results, module.axes.time_out, strict=False))
    found.update({str(i): y.shape[t] for i, (y, t) in times if t is not None})
    return found


def is_segmented(module: BatchFirst, frames: int) -> bool:
    """True if the model calls more operators for each segment of `frames` frames, and no more within one."""
    few = min(2, frames)  # a single one is multiplied otherwise
    tried = (few, frames, frames + few, 2 * frames)
    done = [_done(module, MANY * frames + n) for n in tried]
    outputs = {str(i) for i in range(len(module.axes.time_out))}
    called = [{k: n for k, n in found.items() if k not in outputs} for found in done if found is not None]
    return len(called) == len(tried) and called[0] == called[1] != called[2] == called[3]


def rolled_by_periods(module: BatchFirst, period: int, length_input: tuple[int, int]) -> tuple[fx.GraphModule, int]:
    """The model's loop rolled up into iterations of whole periods, and a length from which on it is right.

    Raises LiftError if it cannot be.
    """
    reason, traced = unlike_frames(), cache(lambda frames: fixed_graph(module, frames))
    for few, more, iterations in _lengths(traced, period):
        samples = module.sample(ROWS, few), module.sample(ROWS, more)
        for leaves_out in (False, True):
            graphs = [copied(traced(frames)) for frames in (few, more)]
            for graph, count in zip(graphs, iterations, strict=True):
                by_periods(graph, count, iterations[1] - iterations[0])
            if leaves_out and not all(leave_out_filled(g, x) for g, x in zip(graphs, samples, strict=True)):
                break
            try:
                rolled = roll(graphs[0], graphs[1], samples, (few, more), length_input)
            except LiftError as error:
                reason = error
                break
            if _is_right(module, rolled, (few, more)):
                return rolled, few
            end_short(rolled, _grown(module, (few, more), iterations[0]), few)
            if _is_right(module, rolled, (few, more)):
                return rolled, few
            reason = cannot_roll(
                f"it does the same again every {period} frames, but a value that is as of the last frame of all, or "
                "what sequences of other lengths end with, is none of whole periods",
                id="loop-periods-partial",
            )
    raise reason


def _is_right(module: BatchFirst, rolled: fx.GraphModule, lengths: tuple[int, int]) -> bool:
    few, more = lengths
    return all(is_right(module, rolled, n) for n in range(few, few + 3 * (more - few) + 1))


def _grown(module: BatchFirst, lengths: tuple[int, int], frames: int) -> Mapping[int, Sequence[int]]:
    """The frames of outputs from one length to another, less those before the loop, by those that are added.

    Outputs that differ with as many are left out. Empty if the loop does not go over all `frames`.
    """
    few, more = lengths
    if frames != few or not all(runs(module, n) for n in range(few, more + 1)):
        return {}
    found = set(zip(*(output_frames(module, n) for n in range(few, more + 1)), strict=True))
    several = Counter(numbers[-1] - numbers[0] for numbers in found)
    periods = few // (more - few)
    by_count = {numbers[-1] - numbers[0]: numbers for numbers in found}
    return {
        count: [n - numbers[0] + periods * count for n in numbers]
        for count, numbers in by_count.items()
        if several[count] == 1 and count
    }


def _lengths(traced: Callable[[int], fx.GraphModule], period: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Two lengths a period apart, and the frames that the loop takes of both."""
    if period <= LONGEST and (found := _whole_periods(traced, period)) is not None:
        yield found
    # Of few pieces, each may have fewer frames before it than the usual one.
    for copies in (COPIES, MANY):
        few, more = copies * period, (copies + 1) * period
        yield few, more, (few, more)


def _whole_periods(traced: Callable[[int], fx.GraphModule], period: int) -> tuple[int, int, tuple[int, int]] | None:
    """`_lengths` of a loop over fewer frames than the input, or at another rate, in whole periods of its own."""
    counts = cache(lambda frames: loops_of(copied(traced(frames))))
    for few in range(COPIES * period, (2 * COPIES + 1) * period):
        more = few + period
        iterations = max(counts(few) - counts(more), default=0), max(counts(more) - counts(few), default=0)
        own = iterations[1] - iterations[0]
        if own < 2 or iterations == (few, more):
            return None
        if iterations[0] % own == 0 and iterations[0] >= COPIES * own:
            return few, more, iterations
    return None
