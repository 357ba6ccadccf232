"""Lifts a PyTorch model to a pure step with named states."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from rnn_export.errors import SEQUENCES, LiftError, NoBatchAxis, SeveralReadings, if_time, keyword
from rnn_export.export.lift.advice import with_tried_advice
from rnn_export.export.lift.axes.axes import Axes, axes_candidates
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.batch_rows import follow_rows, is_independent, rows_of_one, where_rows_mix
from rnn_export.export.lift.branches.counter_indices import refuse_beyond_entries
from rnn_export.export.lift.call_memory import moves_by_call, refuse_memory_by_call
from rnn_export.export.lift.capture import Capture, capture, capture_sequence, output_rates
from rnn_export.export.lift.contract import contract, digest_of, initial_rows
from rnn_export.export.lift.ir.dependence.row_dependence import Rows
from rnn_export.export.lift.ir.fx_nodes import forget_bookkeeping, recorded
from rnn_export.export.lift.ir.normal_form import is_normal
from rnn_export.export.lift.ir.passes import end_stage
from rnn_export.export.lift.layers.bare_layers import Wrapped, wrap_bare_layer
from rnn_export.export.lift.layers.layer_replacement import replace_recurrent
from rnn_export.export.lift.loops.folding.trace_lengths import many_frames
from rnn_export.export.lift.model.attention_bound import context_of
from rnn_export.export.lift.model.decisions import user_assumptions
from rnn_export.export.lift.model.disable_compile import eager
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.model_copy import copied
from rnn_export.export.lift.model.outside_values import Outside
from rnn_export.export.lift.model.script.scripted_functions import scripted_functions_followed
from rnn_export.export.lift.model_checks import (
    refuse_decisions,
    refuse_forgotten_cell,
    refuse_forgotten_states,
    refuse_narrow_example,
    refuse_narrow_examples,
    refuse_narrow_weights,
    refuse_other_device,
    refuse_other_start,
    refuse_train_mode,
    refuse_wrappers,
    with_call_checked,
)
from rnn_export.export.lift.notes import WHOLE, notes_of, origin_of, shared_notes
from rnn_export.export.lift.options import LiftOptions
from rnn_export.export.lift.pack_states import packed
from rnn_export.export.lift.readings import Probed, Readings
from rnn_export.export.lift.states.growing_states import with_capacity
from rnn_export.export.lift.states.module_state import with_states
from rnn_export.export.lift.states.object_states import carry_objects, refuse_left_out
from rnn_export.export.lift.states.sequence_lengths import bind_lengths
from rnn_export.export.lift.states.undefined_initial import refuse_undefined_start, with_initial
from rnn_export.export.lift.streaming import LiftedState, Streamed, stream, unchanged
from rnn_export.export.lift.streaming.equal_states import merge_equal_states
from rnn_export.export.lift.streaming.output_lengths import cut_as_given
from rnn_export.export.lift.streaming.positions import recorded_with_positions
from rnn_export.export.lift.streaming.recorded_runs import RecordedRuns
from rnn_export.export.lift.streaming.rule_context import receptive_field
from rnn_export.export.lift.streaming.rules import RULES
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.platform.export_lock import alone
from rnn_export.platform.last_resort import last_resort
from rnn_export.platform.threads import one_thread


@last_resort(LiftError)
@alone
@one_thread
@eager
@scripted_functions_followed
def lift(
    model: nn.Module, example_inputs: Sequence[Any] | Tensor, options: LiftOptions | None = None
) -> StreamingModel:
    """Lift `model` into one pure step with named states: a copy of it, called as with `example_inputs`.

    Like `export`, it runs alone in the process, on one thread. Raises LiftError with the finding, its place and the
    fix.
    """
    options = LiftOptions() if options is None else options
    example = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    attempt = functools.partial(_lifted, model, example)
    try:
        return attempt(options)
    except LiftError as error:
        raise with_tried_advice(error, options, attempt) from error.__cause__


def _lifted(model: nn.Module, example: tuple[Any, ...], options: LiftOptions) -> StreamingModel:
    flat, outside = _flat_model(model, example, options)
    # Never run nor traced, so that verification starts from what the user gave.
    clean, clean_outside = copy.deepcopy((flat.model, outside))
    lifted = Readings(flat, options, _probed, _whole_sequences if options.sequence_only else _in_chunks).first()
    flat = lifted.original
    if options.max_context is not None and not (flat.context and flat.context.bounds):
        raise LiftError(
            f"{keyword('max_context', options.max_context)}: no causal attention of the model can be bounded so. Leave "
            "it out.",
            id="max-context-without-attention",
        )
    if unasked := [a.at for a in flat.decisions.known if a.at not in flat.decisions.seen.needed]:
        raise LiftError(
            f"assume (--assume) names {', '.join(unasked)}, but in the graph no decision by the value of a tensor is "
            "taken there. Leave it out.",
            id="assume-never-asked",
        )
    original = flat.replace(model=clean, outside=clean_outside)
    lifted = replace(lifted, original=original, notes=(*lifted.notes, *clean_outside.notes))
    return packed(lifted) if options.pack_states else lifted


def _flat_model(model: nn.Module, example: tuple[Any, ...], options: LiftOptions) -> tuple[FlatModel, Outside]:
    """A copy of the user's model called with flat tensors, and copies of the outside values that its code reads.

    Raises LiftError for an unfit model.
    """
    if not isinstance(model, nn.Module):
        raise LiftError(f"the model is a {type(model).__name__}: lifting needs a torch.nn.Module.", id="not-a-module")
    for refuse in (refuse_wrappers, refuse_other_device, refuse_narrow_weights):
        refuse(model)
    (model, outside), states = copied(model), options.states
    refuse_narrow_example(example)
    call = wrap_bare_layer(model, example) if states is None else Wrapped(model, example)
    declared = {name: ref for name, ref in (states or call.states or {}).items() if ref is not None}
    call, declared = with_capacity(*carry_objects(call, declared))
    call = bind_lengths(call, (*declared, *(states or {})))
    flat = FlatModel(call.model, call.example, declared, options.input_names or call.input_names, options.output_names)
    refuse_narrow_examples(flat)
    flat = with_initial(with_call_checked(flat), options.initial)
    refuse_train_mode(model, flat)
    flat.eval()
    if not options.sequence_only and (states is None or states):
        refuse_forgotten_states(flat, options.plain)
    flat.check_names()
    decisions, most = user_assumptions(options.assume), options.max_frames
    return flat.replace(decisions=decisions, max_frames=most, context=context_of(options.max_context, most)), outside


def _in_chunks(flat: FlatModel, probed: Probed, options: LiftOptions) -> StreamingModel:
    """The model in steps of `options.frames` frames."""
    if not probed.axes.has_time:
        refuse_left_out(flat)
        if options.states is None or options.states:
            refuse_forgotten_cell(probed.flat, options.plain)
    first, chunk = {s.name: s.initial for s in probed.states}, options.frames
    probed = replace(probed, flat=probed.flat.replace(chunk=chunk))
    options.progress("capture")
    captured = probed.captures.get(probed.axes.one_row)
    if captured is None:
        captured = capture(BatchFirst(probed.flat, probed.axes, first), chunk, options.recurrent_form)
    if captured.for_any_chunk:
        probed.captures[probed.axes.one_row], captured = captured, captured.copied()
    end_stage("capture", captured.module, is_normal)
    refuse_beyond_entries(probed.flat)
    _refuse_rivals(probed)
    options.progress("streaming")
    streamed = _streamed(probed, captured, chunk)
    end_stage("streaming", captured.module, is_normal)
    options.progress("contract")
    if captured.refusal is not None:
        raise captured.refusal
    shortest = max(captured.shortest, streamed.shortest)
    streamed = cut_as_given(BatchFirst(probed.flat, probed.axes, first), streamed, shortest)
    initial = {s.name: s.initial for s in streamed.states}
    spec = contract(probed.flat, probed.axes, streamed, options.sample_rate, chunk, False)
    context = flat.context.declared if flat.context else None
    spec = replace(spec, assumptions=probed.flat.decisions.needed, max_frames=flat.max_frames, max_context=context)
    spec = replace(spec, digest=digest_of(spec, flat.model, initial))
    states = tuple(streamed.states)
    notes = (*captured.notes, *notes_of(spec, probed.flat, probed.axes, shortest))
    for module in [captured.module, *([streamed.step] if streamed.step else [])]:
        forget_bookkeeping(module.graph)
    at_once, step = captured.dynamic_time and streamed.at_once, streamed.step
    lifted = StreamingModel(spec, flat, probed.axes, captured.module, at_once, initial, states, notes, step, shortest)
    if captured.dynamic_time and probed.flat.states:
        refuse_memory_by_call(lifted, probed.flat)
    return lifted


def _probed(flat: FlatModel, options: LiftOptions) -> Iterator[Probed]:
    """Run a copy of the model to find its module state, candidate axes and initial values."""
    options.progress("memory")
    flat = with_states(flat)
    options.progress("axes")
    candidates = axes_candidates(flat, options.time_axis)
    while axes := _next(candidates, flat):
        if options.frames > 1 and not axes.has_time:
            raise LiftError(
                f"{keyword('chunk', options.chunk)}: the model takes one frame per call (no time axis was found), so "
                "chunk must be 1.",
                id="chunk-without-time",
            )
        initial = initial_rows(flat, axes, options.initial)
        refuse_other_start(flat, axes, initial, options.initial)
        refuse_undefined_start(flat, axes, initial)
        states = tuple(LiftedState(leaf.name, initial[leaf.name], *origin_of(flat, leaf.name)) for leaf in flat.states)
        yield Probed(flat.with_model(replace_recurrent), axes, states)


def _next(candidates: Iterator[Axes], flat: FlatModel) -> Axes | None:
    try:
        return next(candidates, None)
    except NoBatchAxis as error:
        refuse_decisions(flat)
        if error.free and (found := where_rows_mix(flat, error.free[0])):
            error.args = (f"{error.args[0]}\nWhere rows meet: {found}",)
        raise
    except LiftError:
        refuse_decisions(flat)
        raise


def _refuse_rivals(probed: Probed) -> None:
    """Raise LiftError if a rival axis has memory that noise did not show: the user must say which is time."""
    names = [leaf.name for leaf in probed.flat.inputs]
    for rival in probed.axes.rivals:
        if not is_independent(BatchFirst(probed.flat, rival)):
            times = (dict(zip(names, axes.input_time, strict=True)) for axes in (probed.axes, rival))
            raise SeveralReadings(
                "more than one axis could be time. Say which.", advice=map(if_time, times), id="rival-time-axes"
            )


def _streamed(probed: Probed, captured: Capture, chunk: int) -> Streamed:
    """Move the graph's memory of earlier frames into states, in place; a graph of one chunk stays."""
    flat, axes, module = probed.flat, probed.axes, captured.module
    if not captured.dynamic_time:
        _followed(probed, module, chunk)
        return unchanged(probed.states, len(flat.outputs))
    sample, reach = BatchFirst(flat, axes).sample, receptive_field(module.graph, RULES)
    rows_in = None if axes.one_row else axes.rows_in

    def follow(runs: RecordedRuns) -> Rows:
        if axes.one_row:
            return rows_of_one(module, runs.base)
        return follow_rows(module, runs.base, runs.other_batch, axes.rows_in, axes.rows_out)

    runs = recorded_with_positions(module, sample, reach, captured.frames, rows_in, flat.max_frames, follow)
    streamed = stream(module, flat.model, runs, follow(runs), axes.time_in, axes.time_out, chunk, RULES, flat.names)
    streamed = merge_equal_states(module, streamed)
    for i in streamed.moved_by_call:
        raise moves_by_call(probed.states[i].name, bool(streamed.states))
    if not axes.causal and streamed.end is None:
        raise LiftError(
            "an output depends on later frames (a loop that runs backwards, or statistics over the whole "
            "sequence), so it cannot stream.",
            advice=[SEQUENCES],
            id="output-looks-ahead",
        )
    return replace(streamed, states=[*probed.states, *streamed.states])


def _followed(probed: Probed, module: fx.GraphModule, frames: int) -> None:
    """Raise RowsDepend if rows of a result of `module`, of `frames` frames, depend on each other."""
    if probed.axes.one_row:
        return
    sample = BatchFirst(probed.flat, probed.axes).sample
    few, more = (recorded(module, sample(batch, frames)) for batch in (2, 3))
    follow_rows(module, few, more, probed.axes.rows_in, probed.axes.rows_out)


def _whole_sequences(flat: FlatModel, probed: Probed, options: LiftOptions) -> StreamingModel:
    model = BatchFirst(probed.flat, probed.axes)
    options.progress("capture")
    module, shortest = capture_sequence(model, options.frames)
    frames = max(shortest, many_frames(model))
    _followed(probed, module, frames)
    rates = output_rates(module, model, frames)
    streamed = replace(unchanged([], len(rates)), rates=rates)
    spec = contract(probed.flat, probed.axes, streamed, options.sample_rate, 1, True)
    spec = replace(spec, assumptions=probed.flat.decisions.needed)
    spec = replace(spec, digest=digest_of(spec, flat.model, {}))
    notes = (WHOLE, *shared_notes(spec, flat, probed.axes))
    return StreamingModel(spec, flat, probed.axes, module, True, {}, (), notes, shortest=shortest)
