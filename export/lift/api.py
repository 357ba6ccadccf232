"""From a PyTorch model to one pure step with named states."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.axes import Axes, Noise, TimeAxis, find_axes
from rnn_export.export.lift.buffers import adopt_memory
from rnn_export.export.lift.capture import BatchFirst, every_of, graph_of, sample, whole_graph
from rnn_export.export.lift.contract import contract, digest_of, initial_rows
from rnn_export.export.lift.layers.bare import as_model
from rnn_export.export.lift.layers.opaque import Stack, replace_recurrent
from rnn_export.export.lift.loops.rolling import RolledLoop
from rnn_export.export.lift.program.fx import DYNAMIC, export_program
from rnn_export.export.lift.program.signature import FlatModel, OutputRef
from rnn_export.export.lift.refusals import (
    refuse_decisions,
    refuse_forgotten_states,
    refuse_other_device,
    refuse_other_start,
    refuse_train_mode,
    refuse_wrappers,
)
from rnn_export.export.lift.streaming import LiftedState, Streamed, stream
from rnn_export.export.lift.streaming.rules import RULES
from rnn_export.spec import BATCH, TIME, StateSpec, StreamSpec, TensorSpec, sized


@dataclass(frozen=True, eq=False)
class StreamingModel:
    """A model lifted into one pure function with its memory outside.

    Attributes:
        spec: the contract.
        original: a copy of the user's own module, otherwise untouched, called with flat tensors in its own layout.
        axes: where batch and time stand in the tensors of `original`.
        module: (inputs..., states...) -> (outputs..., next states...); states have the batch on axis 0.
        dynamic_time: whether `module` takes any length; if not, it takes exactly `spec.chunk` frames.
        initial: by state name, the value that one row starts from.
        origins: where each state was found.
        notes: what a user should know of how the model was lifted.
    """

    spec: StreamSpec
    original: FlatModel
    axes: Axes
    module: fx.GraphModule
    dynamic_time: bool
    initial: Mapping[str, Tensor]
    origins: tuple[LiftedState, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def has_loop(self) -> bool:
        """Whether `module` drives something frame after frame that no operator of a graph does."""
        projected = torch.ops.rnn_export.lstm_projected.default
        loops = any(isinstance(m, RolledLoop) for m in self.module.modules())
        return loops or any(node.target is projected for node in self.module.graph.nodes)

    def program(self, frames: int | None) -> torch.export.ExportedProgram:
        """`module` exported with a dynamic batch and `frames` frames, or dynamic time where `frames` is None."""
        some = 5 * max(t.every for t in self.spec.outputs) if frames is None else frames
        tensors, shapes = [], []
        noise = Noise(self.original)
        examples = {leaf.name: leaf.example for leaf in self.original.inputs}
        ports: list[TensorSpec | StateSpec] = [*self.spec.inputs, *self.spec.states]
        for tensor in ports:
            drawn = examples.get(tensor.name, torch.zeros(1, dtype=getattr(torch, tensor.dtype)))
            tensors.append(noise.shaped(drawn, sized(tensor.shape, 3, some)))
            dynamic = (BATCH,) if frames is not None else (BATCH, TIME)
            shapes.append({a: DYNAMIC for a, d in enumerate(tensor.shape) if d in dynamic})
        return export_program(self.module, tuple(tensors), tuple(shapes))


def lift(
    model: nn.Module,
    example_inputs: Sequence[Any] | Tensor,
    *,
    time_axis: TimeAxis = "auto",
    states: Mapping[str, OutputRef | None] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    sample_rate: int | None = None,
    chunk: int = 1,
    sequence_only: bool = False,
) -> StreamingModel:
    """Lift `model`; the arguments are those of `rnn_export.export.export`.

    Raises LiftError with what was found, where, and what to do.
    """
    if not isinstance(model, nn.Module):
        raise LiftError(f"the model is a {type(model).__name__}: lifting needs a torch.nn.Module.")
    if isinstance(example_inputs, Tensor):
        example_inputs = (example_inputs,)
    if type(chunk) is not int or chunk < 1:
        raise LiftError(f"chunk is {chunk!r}: it must be an int of at least 1.")
    refuse_wrappers(model)
    refuse_other_device(model)
    model = _copied(model)
    root, example, known, names = (
        (model, tuple(example_inputs), None, None) if states is not None else as_model(model, tuple(example_inputs))
    )
    declared = {name: ref for name, ref in (states or known or {}).items() if ref is not None}
    plain = [name for name, ref in (states or {}).items() if ref is None]
    flat = FlatModel(root, example, declared, input_names or names, output_names)
    refuse_train_mode(model, flat)
    flat.eval()
    if not sequence_only and (states is None or states):
        refuse_forgotten_states(flat, plain)
    flat.check_names()
    try:
        return _lifted(flat, time_axis, initial, sample_rate, chunk, sequence_only)
    except _MovesByCall as error:
        # What looked like time is another axis, where nothing but the call itself moves the memory.
        if time_axis != "auto" or error.others or chunk > 1:
            raise
        return _lifted(flat, None, initial, sample_rate, chunk, sequence_only)


def _lifted(
    flat: FlatModel,
    time_axis: TimeAxis,
    initial: Mapping[str, Tensor] | None,
    sample_rate: int | None,
    chunk: int,
    sequence_only: bool,
) -> StreamingModel:
    copied = copy.deepcopy(flat)
    adopt_memory(copied)
    copied.check_names()
    try:
        axes = find_axes(copied, time_axis)
    except LiftError:
        refuse_decisions(copied)
        raise
    if chunk > 1 and not axes.has_time:
        raise LiftError(
            f"chunk={chunk}: the model takes one frame per call (no time axis was found), so chunk must be 1."
        )
    values = initial_rows(copied, axes, initial)
    refuse_other_start(copied, axes, values, initial)
    origins = [
        LiftedState(leaf.name, values[leaf.name], *(_BUFFER if leaf.name in copied.kept else _ARGUMENT))
        for leaf in copied.states
    ]
    copied.model = replace_recurrent(copied.model)
    if sequence_only:
        module = whole_graph(copied, axes, chunk)
        spec = contract(copied, axes, (), Streamed([], 0, every_of(module, copied, axes)), sample_rate, 1, True)
        spec = replace(spec, digest=digest_of(spec, flat.model, {}))
        return StreamingModel(spec, flat, axes, module, True, {}, (), (_WHOLE,))
    module, dynamic_time, notes = graph_of(BatchFirst(copied, axes), chunk)
    found = Streamed([], 0, [1] * len(copied.outputs))
    if dynamic_time:
        found = stream(
            module,
            copied.model,
            lambda batch, frames, seed: list(sample(copied, axes, batch, frames, seed)),
            axes.input_time,
            axes.output_time,
            chunk,
            RULES,
        )
        if not axes.causal:
            raise LiftError(
                "an output depends on later frames (a loop that runs backwards, or statistics over the whole "
                f"sequence), so it cannot stream. {_INSTEAD}"
            )
    origins += found.states
    values = {**values, **{s.name: s.initial for s in found.states}}
    spec = contract(copied, axes, origins, found, sample_rate, chunk, False)
    spec = replace(spec, digest=digest_of(spec, flat.model, values))
    if not spec.states:
        notes = (*notes, _anew(copied) or "this model has no state: each frame is computed from itself alone")
    if spec.delay:
        notes = (*notes, f"the first {spec.delay} frames give no output: the context of a convolution is not full yet")
    for node in module.graph.nodes:
        # What is left would keep all of torch.export's bookkeeping alive.
        node.meta = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
    lifted = StreamingModel(spec, flat, axes, module, dynamic_time, values, tuple(origins), notes)
    if dynamic_time:
        _refuse_memory_by_call(lifted, copied)
    return lifted


_BUFFER = ("buffer", "a buffer that a call of the model changes")
_ARGUMENT = ("argument", "an argument that comes back, as declared")
_WHOLE = "this bundle cannot stream: it takes whole sequences only (sequence_only)"
_INSTEAD = "Export whole sequences only: sequence_only=True (--sequence-only)."


def _anew(flat: FlatModel) -> str:
    """What to know of recurrent layers in a model that takes one frame per call and keeps nothing."""
    layers = [path for path, module in flat.model.named_modules() if isinstance(module, Stack)]
    if not layers:
        return ""
    return f"{', '.join(layers)}: starts anew at each call, since the model takes one frame per call and keeps no state"


def _copied(model: nn.Module) -> nn.Module:
    """The model to work with: whatever a call changes in it, the user's own stays as it is."""
    # What a hook of torch's computed from parameters cannot be copied as it is.
    made = [t for m in model.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf]
    try:
        return copy.deepcopy(model, {id(t): t.detach().clone() for t in made})
    except Exception as error:  # the user's code may raise anything
        raise LiftError(f"the model cannot be copied, so it cannot be tried out: {first_line(error)}") from error


class _MovesByCall(LiftError):
    """A state moves once per call; `others`: the model has states of its frames besides."""

    def __init__(self, others: bool, message: str) -> None:
        super().__init__(message)
        self.others = others


def _refuse_memory_by_call(lifted: StreamingModel, flat: FlatModel) -> None:
    """A state that moves once per call, and not once per frame, makes another stream of every cut of the input."""
    spec, axes = lifted.spec, lifted.axes
    frames = spec.chunk * max(1, -(-spec.delay // spec.chunk))
    whole = list(sample(flat, axes, 2, 2 * frames, 3))
    inputs = len(spec.inputs)
    states = [
        *whole[inputs:],
        *(lifted.initial[s.name].expand(2, *s.row).clone() for s in spec.states[len(flat.states) :]),
    ]

    def part(start: int, length: int) -> list[Tensor]:
        return [x if t is None else x.narrow(t, start, length) for x, t in zip(whole, axes.input_time, strict=False)]

    with torch.no_grad():
        if spec.delay:
            states = list(lifted.module(*part(0, frames), *states)[len(spec.outputs) :])
            states = list(lifted.module(*part(0, frames), *states)[len(spec.outputs) :])
        once = lifted.module(*part(0, 2 * frames), *states)[len(spec.outputs) :]
        first = lifted.module(*part(0, frames), *states)[len(spec.outputs) :]
        twice = lifted.module(*part(frames, frames), *first)[len(spec.outputs) :]
    for state, a, b in zip(spec.states, once, twice, strict=True):
        if state.name in flat.kept + tuple(s.name for s in flat.declared) and not torch.allclose(a, b, 1e-3, 1e-4):
            raise _MovesByCall(
                len(spec.states) > len(flat.states),
                f"state {state.name!r} moves once per call, however many frames the call has: what comes out depends "
                "on how the sequence is cut. If one call is one frame, say time_axis=None; if not, let every frame "
                "move it.",
            )
