"""From a PyTorch model to one pure step with named states."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from rnn_export.errors import LiftError
from rnn_export.models.axes import Axes, Noise, TimeAxis, draw_states, find_axes
from rnn_export.models.layers import replace_recurrent
from rnn_export.models.loops import RolledLoop, roll
from rnn_export.models.memory import adopt_memory
from rnn_export.models.program import DYNAMIC, Frozen, export_program, flat_graph
from rnn_export.models.refusals import (
    refuse_forgotten_states,
    refuse_other_device,
    refuse_other_start,
    refuse_train_mode,
)
from rnn_export.models.roots import as_model
from rnn_export.models.signature import FlatModel, OutputRef, first_line
from rnn_export.models.streaming import Kept, Streamed, stream
from rnn_export.spec import BATCH, TIME, Dim, StateSpec, StreamSpec, TensorSpec, sized


@dataclass(frozen=True)
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
    origins: tuple[Kept, ...] = ()
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
            tensors.append(noise.like(drawn.new_zeros(sized(tensor.shape, 3, some)), {}))
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
    refuse_other_device(model)
    root, example, known, names = (
        (_copied(model), tuple(example_inputs), None, None)
        if states is not None
        else as_model(_copied(model), tuple(example_inputs))
    )
    declared = {name: ref for name, ref in (states or known or {}).items() if ref is not None}
    plain = [name for name, ref in (states or {}).items() if ref is None]
    flat = FlatModel(root, example, declared, input_names or names, output_names)
    refuse_train_mode(root, flat)
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
    axes = find_axes(copied, time_axis)
    if chunk > 1 and not axes.has_time:
        raise LiftError(
            f"chunk={chunk}: the model takes one frame per call (no time axis was found), so chunk must be 1."
        )
    values = _declared_initial(copied, axes, initial)
    refuse_other_start(copied, axes, values, initial)
    origins = [
        Kept(leaf.name, values[leaf.name], *(_BUFFER if leaf.name in copied.buffers else _ARGUMENT))
        for leaf in copied.states
    ]
    copied.model = replace_recurrent(copied.model)
    if sequence_only:
        module, notes = _whole(copied, axes, chunk), (_WHOLE,)
        spec = _contract(copied, axes, (), Streamed([], 0, _every(module, copied, axes)), sample_rate, 1, True)
        spec = replace(spec, digest=_digest(spec, flat.model, {}))
        return StreamingModel(spec, flat, axes, module, True, {}, (), notes)
    module, dynamic_time, notes = _graph(BatchFirst(copied, axes), chunk)
    found = Streamed([], 0, [1] * len(copied.outputs))
    if dynamic_time:
        found = stream(
            module,
            copied.model,
            lambda batch, frames, seed: list(_sample(copied, axes, batch, frames, seed)),
            axes.input_time,
            len(copied.outputs),
            axes.output_time,
            chunk,
        )
        if not axes.causal:
            raise LiftError(
                "an output depends on later frames (a loop that runs backwards, or statistics over the whole "
                f"sequence), so it cannot stream. {_INSTEAD}"
            )
    origins += found.states
    values = {**values, **{s.name: s.initial for s in found.states}}
    spec = _contract(copied, axes, origins, found, sample_rate, chunk, False)
    spec = replace(spec, digest=_digest(spec, flat.model, values))
    if not spec.states:
        notes = (*notes, "this model has no state: each frame is computed from itself alone")
    if spec.delay:
        notes = (*notes, f"the first {spec.delay} frames give no output: the context of a convolution is not full yet")
    lifted = StreamingModel(spec, flat, axes, module, dynamic_time, values, tuple(origins), notes)
    if dynamic_time:
        _refuse_memory_by_call(lifted, copied)
    return lifted


_BUFFER = ("buffer", "a buffer that a call of the model changes")
_ARGUMENT = ("argument", "an argument that comes back, as declared")
_WHOLE = "this bundle cannot stream: it takes whole sequences only (sequence_only)"
_INSTEAD = "Export whole sequences only: sequence_only=True (--sequence-only)."


def _copied(model: nn.Module) -> nn.Module:
    """The model to work with: whatever a call changes in it, the user's own stays as it is."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # the user's code may raise anything
        raise LiftError(f"the model cannot be copied, so it cannot be tried out: {first_line(error)}") from error


# --- the graph ----------------------------------------------------------------------------------------------------


class BatchFirst(nn.Module):
    """The flat model with the batch on axis 0 of every state."""

    def __init__(self, flat: FlatModel, axes: Axes) -> None:
        super().__init__()
        self.flat, self.axes = flat, axes

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs, outputs, layouts = len(self.flat.inputs), len(self.flat.outputs), self.axes.states
        states = [layout.own(s) for s, layout in zip(tensors[inputs:], layouts, strict=False)]
        results = self.flat(*tensors[:inputs], *states)
        after = [layout.rows(s) for s, layout in zip(results[outputs:], layouts, strict=False)]
        return (*results[:outputs], *after)


def _dynamic(axes: Axes, time: bool) -> tuple[Any, ...]:
    inputs = [
        {b: DYNAMIC, t: DYNAMIC} if time and t is not None else {b: DYNAMIC}
        for b, t in zip(axes.input_batch, axes.input_time, strict=True)
    ]
    return ((*inputs, *({0: DYNAMIC} for _ in axes.states)),)


def _graph(module: BatchFirst, chunk: int) -> tuple[fx.GraphModule, bool, tuple[str, ...]]:
    """The lifted model with dynamic batch, and dynamic time where the model has a time axis that can be."""
    flat, axes = module.flat, module.axes
    if not axes.has_time:
        return flat_graph(module, _sample(flat, axes, 3, 1), _dynamic(axes, False)), False, ()
    try:
        return flat_graph(module, _sample(flat, axes, 3, _fitting(module)), _dynamic(axes, True)), True, ()
    except Frozen as error:
        if error.axis != dict(enumerate(axes.input_time)).get(error.port):
            raise
    try:
        return _rolled(module), True, ()
    except LiftError as error:
        if not axes.states:
            raise LiftError(
                f"the model loops over time in Python, and {error} Keep the state of the loop in a registered buffer, "
                "or take it as an argument, return it, and declare it: states={argument: output}."
            ) from error
        # One chunk of it is still a pure step.
        graph = flat_graph(module, _sample(flat, axes, 3, chunk), _dynamic(axes, False))
        return graph, False, (f"lifted for {chunk} frames at a time: {error}",)


def _whole(flat: FlatModel, axes: Axes, chunk: int) -> fx.GraphModule:
    """The model as it is, for whole sequences of any length."""
    if not axes.has_time:
        raise LiftError("sequence_only: the model takes one frame per call (no time axis was found). Leave it out.")
    if flat.states or chunk > 1:
        raise LiftError("sequence_only: whole sequences have neither states that are carried on nor chunks.")
    module = BatchFirst(flat, axes)
    return flat_graph(module, _sample(flat, axes, 3, _fitting(module)), _dynamic(axes, True))


def _every(module: fx.GraphModule, flat: FlatModel, axes: Axes) -> list[int]:
    """For how many frames of the input each output of whole sequences has one."""
    frames = 240
    with torch.no_grad():
        given = [module(*_sample(flat, axes, 1, n)) for n in (frames, 2 * frames)]
    grown = [1 if t is None else b.shape[t] - a.shape[t] for a, b, t in zip(*given, axes.output_time, strict=True)]
    return [1 if g == 1 or not g else max(round(frames / g), 1) for g in grown]


def _fitting(module: BatchFirst) -> int:
    """A number of frames that the model takes, above 1 and in no other size of it."""
    for frames in (5, 7, 11, 19, 37, 67, 131, 257, 521, 1031, 2053):
        try:
            with torch.no_grad():
                module(*_sample(module.flat, module.axes, 3, frames))
            return frames
        except LiftError:
            raise
        except Exception:  # too short for a window of the model
            continue
    raise LiftError("the model fails on sequences of 5 to 2053 frames of noise.")


def _rolled(module: BatchFirst) -> fx.GraphModule:
    """The model whose own loop export unrolls, rolled up again."""
    flat, axes = module.flat, module.axes
    clock = next((i, t) for i, t in enumerate(axes.input_time) if t is not None)
    shortest = next((n for n in range(1, 257) if _runs(module, n)), None)
    if shortest is None:
        raise LiftError("it runs on no sequence of up to 256 frames.")
    lengths = (shortest + 4, shortest + 5)
    samples = [_sample(flat, axes, 3, n) for n in lengths]
    short, long = (flat_graph(module, sample, _dynamic(axes, False)) for sample in samples)
    return roll(short, long, (samples[0], samples[1]), lengths, clock)


def _runs(module: BatchFirst, frames: int) -> bool:
    try:
        with torch.no_grad():
            return all(t.numel() for t in module(*_sample(module.flat, module.axes, 2, frames)))
    except Exception:  # too short for a window of the model
        return False


def _sample(flat: FlatModel, axes: Axes, batch: int, frames: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Noise inputs, and states with the batch first."""
    noise = Noise(flat, seed)
    inputs = [
        noise.like(leaf.example, {b: batch} if t is None else {b: batch, t: frames})
        for leaf, b, t in zip(flat.inputs, axes.input_batch, axes.input_time, strict=True)
    ]
    return (*inputs, *draw_states(flat, axes.states, noise, batch))


class _MovesByCall(LiftError):
    """A state moves once per call; `others`: the model has states of its frames besides."""

    def __init__(self, others: bool, message: str) -> None:
        super().__init__(message)
        self.others = others


def _refuse_memory_by_call(lifted: StreamingModel, flat: FlatModel) -> None:
    """A state that moves once per call, and not once per frame, makes another stream of every cut of the input."""
    spec, axes = lifted.spec, lifted.axes
    frames = spec.chunk * max(1, -(-spec.delay // spec.chunk))
    whole = list(_sample(flat, axes, 2, 2 * frames, 3))
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
        if state.name in flat.buffers + tuple(s.name for s in flat.declared) and not torch.allclose(a, b, 1e-3, 1e-4):
            raise _MovesByCall(
                len(spec.states) > len(flat.states),
                f"state {state.name!r} moves once per call, however many frames the call has: what comes out depends "
                "on how the sequence is cut. If one call is one frame, say time_axis=None; if not, let every frame "
                "move it.",
            )


# --- the contract -------------------------------------------------------------------------------------------------


def _declared_initial(flat: FlatModel, axes: Axes, initial: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The row that each state of the model starts from: `initial`, else zeros, or what a buffer holds."""
    given = dict(initial or {})
    values = {}
    for leaf, layout in zip(flat.states, axes.states, strict=True):
        rows = layout.example_rows(leaf.example)
        if leaf.name in flat.buffers:
            if not torch.equal(rows, rows[:1].expand_as(rows)):
                raise LiftError(
                    f"buffer {leaf.name!r} holds other values in each row of its batch, so no row can start alone: "
                    "reset the model before export."
                )
            usual = rows[0]
        else:
            usual = torch.zeros_like(rows[0])
        try:
            value = torch.as_tensor(given.pop(leaf.name, usual), dtype=usual.dtype)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LiftError(f"initial[{leaf.name!r}] cannot be read as a tensor: {first_line(error)}") from None
        axis = layout.axis
        if value.shape != usual.shape and value.dim() == leaf.example.dim() and value.shape[axis] == 1:
            value = value.select(axis, 0)
        if value.shape != usual.shape:
            raise LiftError(
                f"initial[{leaf.name!r}] has shape {tuple(value.shape)}, but one row of the state has "
                f"{tuple(usual.shape)}."
            )
        values[leaf.name] = value.detach().clone()
    if given:
        raise LiftError(f"initial names {sorted(given)}, but the states of the model are {list(values)}.")
    return values


def _contract(
    flat: FlatModel,
    axes: Axes,
    states: Sequence[Kept],
    found: Streamed,
    sample_rate: int | None,
    chunk: int,
    sequence_only: bool,
) -> StreamSpec:
    def shape(sizes: Sequence[int], batch: int, time: int | None, every: int = 1) -> tuple[Dim, ...]:
        symbol = TIME if every == 1 else f"{TIME}/{every}"
        return tuple(BATCH if a == batch else symbol if a == time else int(n) for a, n in enumerate(sizes))

    inputs = [
        TensorSpec(leaf.name, _dtype(leaf.example), shape(leaf.example.shape, b, t))
        for leaf, b, t in zip(flat.inputs, axes.input_batch, axes.input_time, strict=True)
    ]
    outputs = [
        TensorSpec(name, _dtype(t), shape(t.shape, b, time, every))
        for name, t, b, time, every in zip(
            flat.outputs, flat.first, axes.output_batch, axes.output_time, found.every, strict=True
        )
    ]
    kept = [
        StateSpec(
            s.name,
            s.name,
            f"{s.name}.next",
            _dtype(s.initial),
            (BATCH, *s.initial.shape),
            "stored" if bool(s.initial.any()) else "zeros",
        )
        for s in states
    ]
    return StreamSpec(
        tuple(inputs), tuple(outputs), tuple(kept), chunk, found.delay, sample_rate, sequence_only=sequence_only
    )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _digest(spec: StreamSpec, model: nn.Module, initial: Mapping[str, Tensor]) -> str:
    """sha256 over the contract, the initial states and the source weights."""
    digest = hashlib.sha256(replace(spec, digest="").dumps().encode())
    # Buffers that are not persistent are no part of the state dict, but they make the outputs too.
    weights = {**dict(model.named_buffers()), **model.state_dict()}
    tensors = [(name, value) for name, value in weights.items() if isinstance(value, Tensor)]
    for name, tensor in sorted([*tensors, *initial.items()], key=lambda item: item[0]):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
