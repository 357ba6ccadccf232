"""Run the user's own module, called as the user calls it, and the lifted step in the same closed loop."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from rnn_export.contract.layout import unpacked
from rnn_export.contract.precision import Tolerance
from rnn_export.errors import AssumptionBroken, ExportError
from rnn_export.export.lift.axes.batch_first import BatchFirst
from rnn_export.export.lift.model.call.complex_parts import part_names
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.module_attributes import attributes
from rnn_export.export.lift.model.torch_driver import torch_driver
from rnn_export.export.lift.rated_ports import folding
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.blame import CONSEQUENCE, blamed
from rnn_export.platform.arrays import Array
from rnn_export.runtime.replay.closed_loop import ClosedLoop, Trace
from rnn_export.runtime.replay.drift import Drift, drift
from rnn_export.runtime.replay.drivers import StepDriver
from rnn_export.runtime.replay.ends import is_compared, lengths_tried
from rnn_export.runtime.replay.golden import Golden

FAILS = "the model fails on what it is verified on"


def golden_vectors(
    model: StreamingModel,
    inputs: Mapping[str, Array],
    tolerance: Tolerance,
    kind: str,
    scales: Mapping[str, Array] | None = None,
) -> tuple[Golden, tuple[Drift, ...]]:
    """Vectors of the user's own module, and the drift of the lifted one in the same closed loop.

    `scales` by output and state are those of `measured_scales`, if a row's own have proved too small.

    The module does not show the states that were lifted out of it: those are the lifted module's, which is held to it
    by the outputs, and by the states that both have.
    """
    spec, loop = model.spec, ClosedLoop(model.spec, inputs)
    lifted = lifted_trace(model, loop)
    own = own_trace(model, loop)
    steps = np.arange(1, loop.frames // spec.chunk + 1)
    golden = Golden(inputs, own.outputs, lifted.states, steps * spec.chunk, tolerance, kinds=(kind,) * loop.rows)
    golden = replace(golden, ends=ends_of_sequences(model, loop), scales=scales or {})
    drifts = [*golden.output_drifts("lifted", spec, lifted.outputs)]
    # The module's own has seen more where steps of several frames round up how late a state is, and where the end of
    # the sequence gives frames that a step of it does not.
    sees_more, given = spec.end is not None or (spec.has_delay and spec.chunk > 1), unpacked(spec, lifted.states)
    known = unpacked(spec, golden.scales)
    for name, want in {} if sees_more else own.states.items():
        last = slice(-want.shape[1], None)
        scale = known[name][:, last] if name in known else None
        drifts.append(drift("lifted", name, given[name][:, last], want, steps[last], tolerance, golden.kinds, scale))
    return golden, tuple(drifts)


def lifted_trace(model: StreamingModel, loop: ClosedLoop, step: nn.Module | None = None) -> Trace:
    """The trace of the lifted step, or of another `step`, its states fed back."""
    call = blamed(FAILS)(step or model.step)
    return loop.run(torch_driver(model.spec, call, initial_states(model, loop.rows)))


def ends_of_sequences(model: StreamingModel, loop: ClosedLoop) -> dict[int, dict[str, Array]]:
    """Outputs of the user's own module for the first frames alone, by their number; if it takes so few.

    Raises ExportError if one has another length than the contract says.
    """
    spec, found = model.spec, {}
    for frames in lengths_tried(spec, loop.frames, model.shortest):
        try:
            given = own_trace(model, ClosedLoop(spec, loop.cut(0, frames)), whole=True).outputs
        except (ExportError, AssumptionBroken):
            continue
        ended = {t.name: given[t.name] for t in spec.outputs if is_compared(spec, t, frames) and t.name in given}
        for tensor in (t for t in spec.outputs if t.name in ended and spec.timed(t)):
            due = tensor.length_of(frames) if tensor.lengths else spec.frames_out(tensor, frames)
            _refuse_other_length(tensor.name, ended[tensor.name], frames, due)
        if ended:
            found[frames] = ended
    return found


def _refuse_other_length(name: str, given: Array, frames: int, due: int) -> None:
    if given.shape[1] != due:
        raise ExportError(
            f"{name!r} has {given.shape[1]} frames of a sequence of {frames}, where {due} were found to be its length: "
            f"what the code does at the end is not understood. {CONSEQUENCE}",
            id="output-length-unexplained",
        )


def own_trace(model: StreamingModel, loop: ClosedLoop, whole: bool = False) -> Trace:
    """The trace of the user's own module: outputs, and states after each call; of a buffer, after the last.

    Frames that a stream gives later than these are left out, unless `whole`.
    """
    model = model.unpacked
    traces = [_own_trace(model, loop.of_rows(rows)) for rows in batches(model, loop.rows)]
    # What is asked of a row alone is asked of copies of it, where the module takes no single one.
    each = 1 if model.spec.assumptions else None
    outputs, states = (
        {name: np.concatenate([named[name][:each] for named in group])[: loop.rows] for name in group[0]}
        for group in ([t.outputs for t in traces], [t.states for t in traces])
    )
    ends = {t.name: model.spec.frames_out(t, loop.frames) for t in model.spec.outputs if model.spec.timed(t)}
    if not model.spec.sequence_only and not whole:
        # Where no end is left, the steps give all that the module does.
        for tensor in (
            model.spec.outputs if model.spec.has_time and not model.spec.tail and model.spec.chunk == 1 else ()
        ):
            if tensor.name in ends:
                _refuse_other_length(tensor.name, outputs[tensor.name], loop.frames, ends[tensor.name])
        outputs |= {name: outputs[name][:, :end] for name, end in ends.items()}
    return Trace(outputs, states)


def _own_trace(model: StreamingModel, loop: ClosedLoop) -> Trace:
    module = copy.deepcopy(model.original)
    trace = loop.run(own_driver(model, module, loop.rows), own_calls(model, loop))
    held = {name: _kept_rows(module, model, name)[:, None] for name in _kept(model)}
    return Trace(trace.outputs, {**trace.states, **held})


def own_calls(model: StreamingModel, loop: ClosedLoop) -> tuple[int, ...]:
    """The frames between which the calls of the user's module lie: one for a whole sequence, else one a frame."""
    return (0, loop.frames) if model.spec.has_time else tuple(range(loop.frames + 1))


def own_driver(model: StreamingModel, module: FlatModel, rows: int) -> StepDriver:
    """`module`, a copy of the user's, with the states that it takes and gives; its buffers are its own affair."""
    model = model.unpacked
    start = initial_states(model, rows)
    own = {s.name: start[s.name] for s in model.spec.states[: len(module.states)]}
    call = _with_its_step(model, blamed(FAILS)(folding(model, BatchFirst(module, model.axes))))
    return torch_driver(model.spec, call, own, leaves_out_delay=True)


def _with_its_step(model: StreamingModel, call: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
    """`call`, whose broken assumptions say at which call it was."""
    steps = itertools.count(1)

    def counted(*tensors: Tensor) -> Sequence[Tensor]:
        step = next(steps)
        try:
            return call(*tensors)
        except AssumptionBroken as error:
            when = " on the whole sequence" if model.spec.has_time else f" at step {step}"
            raise AssumptionBroken(error.at, error.source, error.value, when) from error

    return counted


def initial_states(model: StreamingModel, rows: int) -> dict[str, Array]:
    """The initial states, (rows, ...)."""
    return {s.name: model.initial[s.name].expand(rows, *s.row).contiguous().numpy() for s in model.spec.states}


def batches(model: StreamingModel, rows: int) -> Iterator[Array]:
    """The rows, as many at once as the user's module takes: its buffers may have no other batch than the example's.

    A decision by the values of all rows is asked of each row alone, as in a stream: of a batch of copies.
    """
    example, axis = model.original.inputs[0].example, model.axes.input_batch[0]
    alone = bool(model.spec.assumptions)
    batch = 1 if model.spec.rows or axis is None else example.shape[axis] if _kept(model) else 1 if alone else rows
    for start in range(0, rows, 1 if alone else batch):
        yield np.full(batch, start) if alone else np.arange(start, start + batch) % rows


def _kept(model: StreamingModel) -> list[str]:
    """Names of the states that the module keeps itself."""
    return [s.name for s in model.origins if s.kind in ("buffer", "attribute")]


def _kept_rows(module: FlatModel, model: StreamingModel, name: str) -> Array:
    """The rows of a state that the module keeps itself, as it holds them now."""
    index = [s.name for s in model.spec.states].index(name)
    held = next(value for path, value in attributes(module.model) if name in part_names(module.name_of([path])))
    value = torch.as_tensor(held)
    if value.is_complex():
        value = value.imag if name.endswith(".imag") else value.real
    # One that has no batch axis in the module is of one stream.
    bare = value.dim() == len(model.spec.states[index].row)
    return (value[None] if bare else model.axes.states[index].rows(value)).numpy()
