"""Loops that do the same again every so many frames: their period, and such a loop rolled up."""

from __future__ import annotations

from collections import Counter

import torch
from torch import fx

from rnn_export.export.lift.batch_first import BatchFirst
from rnn_export.export.lift.lengths import is_right, operators
from rnn_export.export.lift.loops.periods import by_periods, end_short, loops_of
from rnn_export.export.lift.loops.rolling import roll
from rnn_export.export.lift.loops.two_lengths import cannot_roll
from rnn_export.export.lift.loops.unrolled import COPIES
from rnn_export.export.lift.program.flat_graph import flat_graph

# Frames that a period may have; those before the first that is looked at; and of how many it is seen in haste.
LONGEST, BEGINNING, SEEN = 16, 4, 4
ROWS = 3


def period_of(module: BatchFirst, thorough: bool = True) -> int | None:
    """After how many frames one more does and gives the same again; None where every frame does, or none.

    Unless it is `thorough`, what the first `SEEN` do is taken for what all of them do, and each must give as many.
    """
    added: list[Counter[str]] = []
    last = _done(module, BEGINNING)
    for frames in range(BEGINNING + 1, BEGINNING + 3 * LONGEST + 1):
        if last is None or (here := _done(module, frames)) is None:
            return None
        added.append(here - last)
        last = here
        if not thorough and len(added) == SEEN and all(a == added[0] for a in added):
            return None
    outputs = [str(i) for i in range(len(module.axes.time_out))]
    if not thorough and any(a[i] != added[0][i] for a in added for i in outputs):
        return None
    periods = (n for n in range(1, LONGEST + 1) if added[n:] == added[:-n])
    period = next(periods, 1)
    return period if period > 1 else None


def _done(module: BatchFirst, frames: int) -> Counter[str] | None:
    """How often each operator is called in a run, and how many frames each output has; None where the model fails."""
    try:
        found = operators(module, frames, with_numbers=True)
        with torch.no_grad():
            results = module(*module.sample(2, frames))
    except Exception:  # the user's code may raise anything; a loop without a period is told elsewhere
        return None
    times = enumerate(zip(results, module.axes.time_out, strict=False))
    found.update({str(i): y.shape[t] for i, (y, t) in times if t is not None})
    return found


def rolled_by_periods(module: BatchFirst, period: int, length_input: tuple[int, int]) -> tuple[fx.GraphModule, int]:
    """The model's loop rolled up, its iterations whole periods, and a length from which on it is right.

    Raises LiftError where it cannot be.
    """
    few, more, turns = _whole_periods(module, period)
    graphs = [_unrolled(module, frames) for frames in (few, more)]
    by_periods(graphs[0], turns[0], turns[1] - turns[0])
    by_periods(graphs[1], turns[1], turns[1] - turns[0])
    samples = module.sample(ROWS, few), module.sample(ROWS, more)
    rolled = roll(graphs[0], graphs[1], samples, (few, more), length_input)
    lengths = range(few, few + 3 * period + 1)
    if not all(is_right(module, rolled, n) for n in lengths):
        end_short(rolled)
        if not all(is_right(module, rolled, n) for n in lengths):
            raise cannot_roll(
                f"it does the same again every {period} frames, but a value that is as of the last frame of all, or "
                "what sequences of other lengths end with, is none of whole periods"
            )
    return rolled, few


def _whole_periods(module: BatchFirst, period: int) -> tuple[int, int, tuple[int, int]]:
    """Two lengths, a period apart, and the turns of the loop at both: whole periods of its own, `COPIES` and more.

    It may take fewer frames than the input has, and at another rate. Raises LiftError where there are none.
    """
    for few in range(COPIES * period, (2 * COPIES + 1) * period):
        here, there = (loops_of(_unrolled(module, n)) for n in (few, few + period))
        turns, more = max(here - there, default=0), max(there - here, default=0)
        own = more - turns
        if own > 1 and turns % own == 0 and turns >= COPIES * own:
            return few, few + period, (turns, more)
    raise cannot_roll(f"it does the same again every {period} frames, but over no length so many times, as was tried")


def _unrolled(module: BatchFirst, frames: int) -> fx.GraphModule:
    return flat_graph(module, module.sample(ROWS, frames), module.dynamic(False), False)
