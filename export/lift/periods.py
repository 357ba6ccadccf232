"""Loops that do the same again every so many frames: their period, and such a loop rolled up."""

from __future__ import annotations

from collections import Counter

import torch
from torch import fx

from rnn_export.export.lift.batch_first import BatchFirst
from rnn_export.export.lift.fixed_graph import ROWS, fixed_graph
from rnn_export.export.lift.lengths import is_right, operators
from rnn_export.export.lift.loops.periods import by_periods, end_short
from rnn_export.export.lift.loops.rolling import roll
from rnn_export.export.lift.loops.two_lengths import cannot_roll
from rnn_export.export.lift.loops.unrolled import COPIES

# Frames that a period may have; those before the first that is looked at; and of how many it is seen in haste.
LONGEST, BEGINNING, SEEN = 16, 4, 4


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
    # The whole of a first piece is no piece.
    settled = added[BEGINNING:]
    periods = (n for n in range(1, LONGEST + 1) if settled[n:] == settled[:-n])
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
    few, more = (COPIES * period, (COPIES + 1) * period)
    graphs = []
    for frames in (few, more):
        graphs.append(fixed_graph(module, frames))
        by_periods(graphs[-1], frames, period)
    samples = module.sample(ROWS, few), module.sample(ROWS, more)
    rolled = roll(graphs[0], graphs[1], samples, (few, more), length_input)
    if not _is_right(module, rolled, period):
        end_short(rolled)
        if not _is_right(module, rolled, period):
            raise cannot_roll(
                f"it does the same again every {period} frames, but a value that is as of the last frame of all, or "
                "what sequences of other lengths end with, is none of whole periods"
            )
    return rolled, few


def _is_right(module: BatchFirst, rolled: fx.GraphModule, period: int) -> bool:
    few = COPIES * period
    return all(is_right(module, rolled, n) for n in range(few, few + 3 * period + 1))
