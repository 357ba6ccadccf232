"""Exports a model as a graph for any batch and any number of frames, with its time loop rolled up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from types import FunctionType

import numpy as np
import torch
from torch import fx

from rnn_export.errors import BoundedAxis, FrozenAxis, LiftError, first_line
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.contract import contract
from rnn_export.export.lift.ir.compare import CLOSED_LOOP
from rnn_export.export.lift.ir.fx_nodes import copied
from rnn_export.export.lift.ir.source_location import busiest_place
from rnn_export.export.lift.loops.align_traces import cannot_roll
from rnn_export.export.lift.loops.folding.fixed_length_graph import OTHER_ROWS, ROWS, fixed_graph
from rnn_export.export.lift.loops.folding.folded_loop import rewrite_for_any_length, rolled_loop
from rnn_export.export.lift.loops.folding.long_run_check import fewest, other_branch, refuse_late_changes
from rnn_export.export.lift.loops.folding.periodic_folding import LONGEST, is_segmented, periods_of, rolled_by_periods
from rnn_export.export.lift.loops.folding.recurrence_graph import SCANNED, by_found_scans, of_whole_windows_too
from rnn_export.export.lift.loops.folding.trace_lengths import (
    FAR,
    MANY_FRAMES,
    doubles,
    has_loop,
    has_segments,
    irregular,
    is_right,
    lengths_of,
    longer_example,
    many_frames,
    output_frames,
    refuse_changes_by_length,
    segment_of,
    shortest_length,
    unrollings,
)
from rnn_export.export.lift.loops.higher_order_loops import roll_operators
from rnn_export.export.lift.loops.sequence_functions import sequence_loops
from rnn_export.export.lift.loops.tables.length_tables import tables_of_length
from rnn_export.export.lift.loops.tables.python_tables import tables_of_numbers
from rnn_export.export.lift.model.module_attributes import as_before, tables_kept
from rnn_export.export.lift.model.sample_inputs import SCALES
from rnn_export.export.lift.model.torch_driver import inputs_of, torch_driver
from rnn_export.export.lift.rewrite.flat_graph import flat_graph, fold
from rnn_export.export.lift.rewrite.recurrences import find_recurrences, has_running
from rnn_export.export.lift.streaming import LiftedState, unchanged
from rnn_export.export.lift.streaming.rule_context import receptive_field
from rnn_export.export.lift.streaming.rules import RULES
from rnn_export.export.lift.trace.call_profiler import calls_of
from rnn_export.export.lift.trace.patches import standing_in
from rnn_export.export.lift.trace.tracing import export_program
from rnn_export.runtime.replay.closed_loop import ClosedLoop

WHOLE = "sequence_only (--sequence-only)"
KEEP_OUTSIDE = (
    "Keep the state of the loop in a registered buffer, or take it as an argument, return it, and declare it: "
    "states={argument: output} (--state ARGUMENT=OUTPUT)."
)
PASSES = (
    "it goes over the sequence in passes, one more each time it is twice as long (a parallel scan), whose values show "
    "no linear recurrence h[t] = a[t] h[t - 1] + x[t] that could take their place."
)
SEQUENTIAL = (
    "Give the model's own form of one frame after the other, which gives the same (often called recurrent, sequential "
    "or step), in place of a function by recurrent_form={chunkwise: recurrent}, or let the loop go frame by frame."
)
ELSE = "the code does something else (a branch on the length)"
# Lengths at which a model is exported before a bound is taken for its own.
TRIES = 3
FAR_BEYOND = 4
# Lengths that the code may treat apart, below those that a graph is exported at.
FEW = (1, 2, 3)


@dataclass(frozen=True)
class Capture:
    """A graph (inputs..., states...) -> (outputs..., next states...) for any batch, of any length or of one chunk.

    `frames` is a length that the model takes. `refusal` is the error if the graph is not the model at all lengths,
    raised if no other is. `shortest` is the fewest frames at which the graph is the model. With `for_any_chunk` it is
    the same for steps of any number of frames.
    """

    module: fx.GraphModule
    dynamic_time: bool
    notes: tuple[str, ...] = ()
    frames: int = 0
    refusal: LiftError | None = None
    shortest: int = 1
    for_any_chunk: bool = False

    def copied(self) -> Capture:
        """The capture with a graph of its own."""
        return replace(self, module=copied(self.module))


def capture(
    module: BatchFirst, chunk: int, recurrent_form: Mapping[FunctionType, FunctionType] | None = None
) -> Capture:
    """Export `module` and roll up a Python loop over time; raises LiftError if neither can be done.

    A recurrence computed in parallel becomes the recurrence in the graph. `recurrent_form` has functions of the user's
    code, and those that go over single frames in their place.
    """
    sample = module.sample(2, many_frames(module) if module.axes.has_time else 1)

    with as_before(module.flat.model), tables_kept(module.flat.model):
        calls = calls_of(lambda: module(*sample))
        loops = sequence_loops(calls, recurrent_form or {})
    with standing_in(loops), tables_of_numbers(calls):
        try:
            captured = _capture(module, chunk)
        except BoundedAxis as error:
            if error.axis != module.axes.rows_in[error.port]:
                raise
            raise LiftError(
                f"axis {error.axis} of input {error.port} is the batch, and the code does something else where it has "
                f"more than {error.longest} rows (a branch on their number, a table with a row for each), but every "
                "row is a stream, whose results hang on no other. Let it do the same for any number of rows.",
                id="batch-rows-bounded",
            ) from error
    if captured.dynamic_time and has_running(captured.module.graph):
        find_recurrences(captured.module, module.sample(ROWS, shortest_length(module)))
    return captured


def _capture(module: BatchFirst, chunk: int) -> Capture:
    axes = module.axes
    if not axes.has_time:
        graph = flat_graph(module, module.sample(3, 1), module.dynamic(False), counts=module.counts)
        return Capture(graph, False)
    try:
        graph, frames = of_any_length(module)
        shortest, refusal = other_branch(module, graph, frames)
        if shortest == 1:
            shortest = fewest(module, graph, FEW, frames)
        return Capture(graph, True, (), frames, refusal, shortest)
    except FrozenAxis as error:
        if error.axis != dict(enumerate(axes.time_in)).get(error.port):
            raise
    rolled = _rolled_up(module, chunk)
    return replace(rolled, for_any_chunk=rolled.dynamic_time and module.flat.context is None)


def _rolled_up(module: BatchFirst, chunk: int) -> Capture:
    """The time loop of the model rolled up, else one chunk of it; raises LiftError if neither can be."""
    axes, segment = module.axes, cache(lambda: segment_of(module))
    place, advice, tried = "", KEEP_OUTSIDE, list[int]()
    ended: BoundedAxis | None = None
    module.tables = tables_of_length(module, lambda frames: module.sample(1, frames))
    for attempt, lengths in enumerate(unrollings(module, chunk)):
        if attempt < 2 and (found := _by_periods(module, chunk, thorough=attempt > 0)) is not None:
            return found
        tried.append(lengths[0])
        if unlike := irregular(module, lengths):
            reason = cannot_roll(unlike, id="loop-body-unlike")
            if (frames := segment()) is not None:
                reason, advice = _over_segments(frames), SEQUENTIAL
                if frames > LONGEST:
                    break
                # It may go over single frames of another rate.
                continue
            if attempt == 0 and (scanned := by_found_scans(module)) is not None:
                return Capture(scanned, True, shortest=fewest(module, scanned, FEW, min(SCANNED)))
            if doubles(module):
                reason, advice = LiftError(PASSES, id="loop-in-passes"), SEQUENTIAL
                break
            continue
        short = fixed_graph(module, lengths[0])
        place = _loop_found(short)
        try:
            rolled = rolled_loop(module, short, lengths)
        except LiftError as error:
            reason, advice = error, KEEP_OUTSIDE
            continue
        try:
            notes = refuse_late_changes(module, rolled, lengths[0], lengths[1] - lengths[0])
        except BoundedAxis as error:
            # A loop of few frames may be the beginning of one that does the same every so many.
            if error.longest > 3 * LONGEST or attempt > 0:
                raise ended or error from None
            reason, ended = error, error
            continue
        shortest = fewest(module, rolled, (*FEW, *lengths_of(module)), lengths[0])
        return Capture(rolled, True, notes, shortest=shortest)
    if ended is not None:
        raise ended
    moves_alike = axes.causal and axes.states and _moves_alike(module)
    if not moves_alike:
        sample = module.sample(ROWS, tried[0])
        place = place or _loop_found(export_program(module, sample, module.dynamic(False)).graph_module)
    if not axes.causal:
        raise LiftError(
            f"{place} an output depends on later frames (the loop runs backwards, or what it takes "
            "looks ahead), so it cannot stream.",
            id="loop-looks-ahead",
        ) from reason
    if not moves_alike:
        raise LiftError(f"{place} {reason} {advice}", id=reason.id) from reason
    # One chunk of it is still a pure step.
    graph = flat_graph(module, module.sample(3, chunk), module.dynamic(False))
    return Capture(graph, False, (f"lifted for {chunk} frames at a time: {reason}",))


def _loop_found(unrolled: fx.GraphModule) -> str:
    return f"{busiest_place(unrolled)}: the model loops over time in Python, and"


def _over_segments(frames: int) -> LiftError:
    return LiftError(
        f"it takes {frames} frames at a time (a chunkwise form: every {frames} frames more it does as much again), "
        "each computed at once from the state that those before leave, which is no step of one frame.",
        id="loop-over-segments",
    )


def _by_periods(module: BatchFirst, chunk: int, thorough: bool) -> Capture | None:
    """The loop rolled up by periods of frames; None if it has none or cannot be."""
    for period in [chunk] if chunk > 1 and is_segmented(module, chunk) else periods_of(module, thorough):
        try:
            rolled, frames = rolled_by_periods(module, period, module.axes.first_time)
        except LiftError:
            continue
        rewrite_for_any_length(module, rolled, frames)
        fold(rolled)
        notes = refuse_late_changes(module, rolled, frames, period)
        return Capture(rolled, True, notes, shortest=fewest(module, rolled, (*FEW, *lengths_of(module)), frames))
    return None


def _moves_alike(module: BatchFirst) -> bool:
    """True if single frames with fed-back states give what one call of several gives, quiet or loud."""
    try:
        return all(_moves_alike_at(module, scale) for scale in SCALES)
    except LiftError:
        raise
    except Exception:  # segments so short may be less than the user's code takes
        return False


def _moves_alike_at(module: BatchFirst, scale: float) -> bool:
    flat, drawn = module.flat, module.sample(2, 4)
    inputs, values = drawn[: len(flat.inputs)], drawn[len(flat.inputs) :]
    inputs = tuple(scale * x if x.is_floating_point() else x for x in inputs)
    states = [LiftedState(leaf.name, value[0], "argument", "") for leaf, value in zip(flat.states, values, strict=True)]
    spec = contract(flat, module.axes, unchanged(states, len(flat.outputs)), None, 1, False)
    start = {leaf.name: value.numpy() for leaf, value in zip(flat.states, values, strict=True)}
    loop = ClosedLoop(spec, inputs_of(spec, inputs))
    whole, by_frame = (loop.run(torch_driver(spec, module, start), edges).outputs for edges in ((0, 4), range(5)))
    return all(np.allclose(by_frame[name], whole[name], CLOSED_LOOP.rtol, CLOSED_LOOP.atol) for name in whole)


def capture_sequence(module: BatchFirst, chunk: int) -> tuple[fx.GraphModule, int]:
    """The graph of the model for whole sequences of any length, and a length it takes.

    Raises LiftError if the model has states or no time axis.
    """
    if not module.axes.has_time:
        frame = f"{WHOLE}: the model takes one frame per call (no time axis was found). Leave it out."
        raise LiftError(frame, id="sequence-only-without-time")
    if module.flat.states or chunk > 1:
        kept = f"{WHOLE}: whole sequences have neither states that are carried on nor chunks."
        raise LiftError(kept, id="sequence-only-with-states")
    graph, frames = of_any_length(module)
    shortest, refusal = other_branch(module, graph, frames)
    if refusal or shortest > 1:
        branch = f"the code goes another way over fewer than {shortest} frames: give it as many."
        raise refusal or LiftError(branch, id="branch-below-length")
    return graph, frames


def output_rates(graph: fx.GraphModule, module: BatchFirst, frames: int) -> list[Fraction]:
    """The frames of each output per frame of the input, for whole sequences; runs on `frames` or more."""
    unit = math.lcm(MANY_FRAMES, receptive_field(graph.graph, RULES)[0])
    first = unit * -(-frames // unit)
    with torch.no_grad():
        results = [graph(*module.sample(1, n)) for n in (first, first + unit)]
    times = module.axes.time_out
    grown = [unit if t is None else b.shape[t] - a.shape[t] for a, b, t in zip(*results, times, strict=True)]
    return [Fraction(g or unit, unit).limit_denominator(unit // 2) for g in grown]


def of_any_length(module: BatchFirst) -> tuple[fx.GraphModule, int]:
    """The graph exported at a length that equals no other size of the model, and that length; raises LiftError."""
    flat, longest, reason = module.flat, 0, ""
    bounded, frozen = list[BoundedAxis](), list[FrozenAxis]()
    port, axis = module.axes.first_time
    lengths = [*lengths_of(module), *longer_example(module)]
    for frames in lengths:
        if frames <= longest:
            continue
        inputs = module.sample(OTHER_ROWS if frozen else ROWS, frames)
        try:
            with tables_kept(flat.model):
                few = 0 in output_frames(module, frames)
        except LiftError:
            raise
        except Exception as error:  # too short for a window of the model, or no multiple of its stride
            reason = f"{type(error).__name__}: {first_line(error)}"
            continue
        if few:
            reason = f"of {frames} frames an output has none"
            continue
        if (frames > FAR and has_loop(module, frames, least=2)) or (not longest and has_segments(module, frames)):
            # Written out it takes minutes, to be a number of frames all the same.
            looped = f"axis {axis} of input {port} is looped over, in {frames} frames or more."
            raise FrozenAxis(looped, port, axis, id="axis-looped-over")
        try:
            graph = flat_graph(
                module, inputs, module.dynamic(True), most=flat.max_frames, context=flat.context, chunk=flat.chunk
            )
            roll_operators(graph)
            graph = of_whole_windows_too(module, graph, frames)
            if not _holds_at_more(module, graph, frames):
                if bounded:
                    raise BoundedAxis(port, axis, frames, ELSE)
                other = f"the graph of {frames} frames gives something else for more of them."
                raise FrozenAxis(other, port, axis, id="graph-of-fixed-length")
            _refuse_end(module, graph, frames, bounded)
            return graph, frames
        except BoundedAxis as error:
            # A single frame between two windows is taken for one that is repeated: not so with more of them.
            bounded.append(error)
            # Far beyond a bound that short sequences alone may have.
            if (error.port, error.axis) == (port, axis):
                longest = max(error.longest, min(FAR_BEYOND * error.longest, lengths[-1] - 1))
            if len(bounded) == TRIES:
                break
        except FrozenAxis as error:
            # A loop makes a number of the length at any; else it may have met another size, or be a single window.
            frozen.append(error)
            if len(frozen) == TRIES or has_loop(module, frames):
                raise
            # The way of short sequences alone may be gone far beyond them.
            longest = max(longest, min(FAR_BEYOND * frames, lengths[-1] - 1))
    if bounded:
        refuse_changes_by_length(module, bounded)
        raise bounded[-1]
    if frozen:
        raise frozen[-1]
    tried = ", ".join(map(str, lengths))
    raise LiftError(
        f"the model fails on sequences of each length tried, {tried} frames: {reason}. Where "
        "several inputs have time, all must have the same number of frames.",
        id="fails-at-each-length",
    )


def _refuse_end(module: BatchFirst, graph: fx.GraphModule, frames: int, bounded: Sequence[BoundedAxis]) -> None:
    """Raise BoundedAxis if a graph of `frames` frames holds at more of them, but not at many.

    If it holds at no fewer, it is the branch of long sequences alone, beyond the last bound met.
    """
    if is_right(module, graph, many_frames(module)) is False:
        right = [n for n in lengths_of(module) if n < MANY_FRAMES and is_right(module, graph, n)]
        if bounded and not right:
            raise bounded[-1]
        port, axis = module.axes.first_time
        raise BoundedAxis(port, axis, max([frames, *right]), ELSE)


def _holds_at_more(module: BatchFirst, graph: fx.GraphModule, frames: int) -> bool:
    """True if a graph of any length holds at the next one: export may unroll a loop silently.

    The next one is that with more windows than `frames`, if outputs have any.
    """
    few = output_frames(module, frames)
    for more in (n for n in lengths_of(module) if n > frames):
        right = is_right(module, graph, more)
        if right is False:
            return False
        if right and not (few and output_frames(module, more) == few):
            return True
    return True
