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
from rnn_export.models.axes import Axes, Noise, TimeAxis, find_axes
from rnn_export.models.layers import replace_recurrent
from rnn_export.models.memory import refuse_memory
from rnn_export.models.roots import as_model
from rnn_export.models.signature import FlatModel, OutputRef, first_line
from rnn_export.models.states import Lifted, lift_states, without_guards
from rnn_export.spec import BATCH, TIME, Dim, StateSpec, StreamSpec, TensorSpec

DYNAMIC = torch.export.Dim.DYNAMIC


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
        notes: what a user should know of how the model was lifted.
    """

    spec: StreamSpec
    original: FlatModel
    axes: Axes
    module: fx.GraphModule
    dynamic_time: bool
    initial: Mapping[str, Tensor]
    notes: tuple[str, ...]

    def program(self, frames: int | None) -> torch.export.ExportedProgram:
        """`module` exported with a dynamic batch and `frames` frames, or dynamic time where `frames` is None."""
        sizes = {BATCH: 3, TIME: 5 if frames is None else frames}
        tensors, shapes = [], []
        noise = Noise(self.original)
        examples = {leaf.name: leaf.example for leaf in self.original.inputs}
        ports: list[TensorSpec | StateSpec] = [*self.spec.inputs, *self.spec.states]
        for tensor in ports:
            drawn = examples.get(tensor.name, torch.zeros(1, dtype=getattr(torch, tensor.dtype)))
            shape = [sizes[d] if isinstance(d, str) else d for d in tensor.shape]
            tensors.append(noise.like(drawn.new_zeros(shape), {}))
            dynamic = (BATCH,) if frames is not None else (BATCH, TIME)
            shapes.append({a: DYNAMIC for a, d in enumerate(tensor.shape) if d in dynamic})
        return _export(self.module, tuple(tensors), tuple(shapes))


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
    _refuse_other_device(model)
    model = _copied(model)
    root, example, known, names = (
        (model, tuple(example_inputs), None, None) if states is not None else as_model(model, tuple(example_inputs))
    )
    declared = {name: ref for name, ref in (states or known or {}).items() if ref is not None}
    plain = [name for name, ref in (states or {}).items() if ref is None]
    flat = FlatModel(root, example, declared, input_names or names, output_names)
    _refuse_train_mode(model, flat)
    flat.eval()
    if states is None or states:
        _refuse_forgotten_states(flat, plain)
    flat.check_names()
    copied = copy.deepcopy(flat)
    refuse_memory(copied)
    axes = find_axes(copied, time_axis)
    if chunk > 1 and not axes.has_time:
        raise LiftError(
            f"chunk={chunk}: the model takes one frame per call (no time axis was found), so chunk must be 1."
        )
    declared_values = _declared_initial(flat, axes, initial)
    _refuse_other_start(copied, axes, declared_values, initial)
    copied.model = replace_recurrent(copied.model)
    program, dynamic_time, notes = _exported(BatchFirst(copied, axes), chunk)
    module = without_guards(program)
    time = _time_symbol(module, axes) if dynamic_time else None
    samples = [_sample(copied, axes, batch, 5 if dynamic_time else chunk) for batch in (2, 3)]
    found = lift_states(module, copied.model, len(flat.states), time, samples)
    values = {**declared_values, **{s.name: s.initial for s in found}}
    spec = _contract(flat, axes, found, values, sample_rate, chunk)
    spec = replace(spec, digest=_digest(spec, root, values))
    if not spec.states:
        notes = (*notes, "this model has no state: each frame is computed from itself alone")
    return StreamingModel(spec, flat, axes, module, dynamic_time, values, notes)


def _copied(model: nn.Module) -> nn.Module:
    """The model to work with: whatever a call changes in it, the user's own stays as it is."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # the user's code may raise anything
        raise LiftError(f"the model cannot be copied, so it cannot be tried out: {first_line(error)}") from error


# --- refusals -----------------------------------------------------------------------------------------------------


def _refuse_other_device(model: nn.Module) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    elsewhere = next(((name, t.device) for name, t in tensors if t.device.type != "cpu"), None)
    if elsewhere:
        raise LiftError(f"{elsewhere[0]!r} of the model is on {elsewhere[1]}: call model.cpu() before export.")


def _refuse_train_mode(model: nn.Module, flat: FlatModel) -> None:
    """A model in train mode is fine only where the mode changes nothing; it is left in the mode it has."""
    if not any(m.training for m in model.modules()):
        return
    noise = Noise(flat)
    tensors = [noise.like(leaf.example, {}) for leaf in (*flat.inputs, *flat.states)]
    with torch.no_grad(), torch.random.fork_rng():
        train, evaluated = copy.deepcopy(flat)(*tensors), copy.deepcopy(flat).eval()(*tensors)
    if not all(torch.equal(a, b) for a, b in zip(train, evaluated, strict=True)):
        kinds = sorted({type(m).__name__ for m in model.modules() if getattr(m, "p", 0) or getattr(m, "dropout", 0)})
        raise LiftError(
            f"the model is in train mode and gives other outputs there than in eval mode"
            f"{' (' + ', '.join(kinds) + ')' if kinds else ''}: call model.eval() before export."
        )


def _refuse_forgotten_states(flat: FlatModel, plain: Sequence[str]) -> None:
    """An input that comes back in its own shape beside other outputs is a state in all likelihood."""
    if len(flat.outputs) + len(flat.states) < 2:
        return
    for leaf in flat.inputs[1:]:
        name, example = leaf.name.split(".")[0], leaf.example
        same = [k for k, t in zip(flat.keys, flat.first, strict=True) if _alike(t, example)]
        if name in plain or not same:
            continue
        # Inputs of one shape most often come back in their order, after any output of that shape.
        alike = [other.name for other in flat.inputs[1:] if _alike(other.example, example)]
        likely = same[max(0, min(len(same) - 1, alike.index(leaf.name) + len(same) - len(alike)))]
        raise LiftError(
            f"input {leaf.name!r} {tuple(example.shape)} comes back in the same shape as output "
            f"{' or '.join(map(repr, dict.fromkeys(same)))}: it looks like a state. Declare where it comes back, in "
            f"the order of the model most likely states={{{name!r}: {likely!r}}} (--state {name}={likely}), or say "
            f"that it is none, states={{{name!r}: None}} (--state {name}=none)."
        )


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def _refuse_other_start(
    flat: FlatModel, axes: Axes, values: Mapping[str, Tensor], initial: Mapping[str, Tensor] | None
) -> None:
    """A state that the model makes itself when it gets none must be the one that it is given here instead."""
    unsaid = [s.name for s in flat.states if s.name.split(".")[0] in flat.made and s.name not in (initial or {})]
    if not unsaid:
        return
    batch, frames = 2, 5
    inputs = _sample(flat, axes, batch, frames)[: len(flat.inputs)]
    states = [
        values[s.name].unsqueeze(axis).expand([batch if a == axis else n for a, n in enumerate(s.example.shape)])
        for s, axis in zip(flat.states, axes.state_batch, strict=True)
    ]
    with torch.no_grad():
        pairs = zip(flat.started_by_model(*inputs, *states), flat(*inputs, *states), strict=True)
    if not all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs):
        raise LiftError(
            f"called without {', '.join(map(repr, unsaid))}, the model starts from other values than zeros: say which, "
            f"initial={{{unsaid[0]!r}: tensor}}, one row of it."
        )


# --- export -------------------------------------------------------------------------------------------------------


class BatchFirst(nn.Module):
    """The flat model with the batch on axis 0 of every state."""

    def __init__(self, flat: FlatModel, axes: Axes) -> None:
        super().__init__()
        self.flat, self.axes = flat, axes

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs, outputs, batch = len(self.flat.inputs), len(self.flat.outputs), self.axes.state_batch
        states = [s.movedim(0, axis) for s, axis in zip(tensors[inputs:], batch, strict=True)]
        results = self.flat(*tensors[:inputs], *states)
        after = [s.movedim(axis, 0) for s, axis in zip(results[outputs:], batch, strict=True)]
        return (*results[:outputs], *after)


def _exported(module: BatchFirst, chunk: int) -> tuple[torch.export.ExportedProgram, bool, tuple[str, ...]]:
    """The lifted model with dynamic batch, and dynamic time where the model has a time axis that can be."""
    flat, axes = module.flat, module.axes
    shapes = [
        {b: DYNAMIC} if t is None else {b: DYNAMIC, t: DYNAMIC}
        for b, t in zip(axes.input_batch, axes.input_time, strict=True)
    ]
    states = [{0: DYNAMIC} for _ in axes.state_batch]
    if not axes.has_time:
        return _export(module, _sample(flat, axes, 3, 1), ((*shapes, *states),)), False, ()
    try:
        return _export(module, _sample(flat, axes, 3, 5), ((*shapes, *states),)), True, ()
    except LiftError as error:
        if not axes.state_batch:
            raise LiftError(
                f"{error} If the model loops over time in Python, take the state of the loop as an argument, return "
                "it, and declare it: states={argument: output}."
            ) from error
        # A loop over time in Python: one chunk of it is still a pure step.
        fixed = [{b: DYNAMIC} for b in axes.input_batch]
        program = _export(module, _sample(flat, axes, 3, chunk), ((*fixed, *states),))
        note = f"no sequence graph, sequences run step by step: the model loops over time itself ({error})"
        return program, False, (note,)


def _export(module: nn.Module, args: tuple[Tensor, ...], shapes: tuple[Any, ...]) -> torch.export.ExportedProgram:
    try:
        with torch.no_grad():
            return torch.export.export(module, args, dynamic_shapes=shapes, strict=False)
    except LiftError:
        raise
    except Exception as error:  # torch.export raises many kinds, and those of the user's code
        raise LiftError(f"torch.export cannot follow the model: {type(error).__name__}: {first_line(error)}") from error


def _sample(flat: FlatModel, axes: Axes, batch: int, frames: int) -> tuple[Tensor, ...]:
    """Noise inputs, and states with the batch first."""
    noise = Noise(flat)
    inputs = [
        noise.like(leaf.example, {b: batch} if t is None else {b: batch, t: frames})
        for leaf, b, t in zip(flat.inputs, axes.input_batch, axes.input_time, strict=True)
    ]
    states = [
        noise.like(leaf.example, {b: batch}).movedim(b, 0).contiguous()
        for leaf, b in zip(flat.states, axes.state_batch, strict=True)
    ]
    return (*inputs, *states)


def _time_symbol(module: fx.GraphModule, axes: Axes) -> Any:
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    sizes = [n.meta["val"].shape[t] for n, t in zip(placeholders, axes.input_time, strict=False) if t is not None]
    return sizes[0].node.expr


# --- the contract -------------------------------------------------------------------------------------------------


def _declared_initial(flat: FlatModel, axes: Axes, initial: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The row that each declared state starts from: `initial`, else zeros."""
    given = dict(initial or {})
    values = {}
    for leaf, axis in zip(flat.states, axes.state_batch, strict=True):
        zeros = torch.zeros_like(leaf.example.select(axis, 0))
        try:
            value = torch.as_tensor(given.pop(leaf.name, zeros), dtype=zeros.dtype)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LiftError(f"initial[{leaf.name!r}] cannot be read as a tensor: {first_line(error)}") from None
        if value.dim() == leaf.example.dim() and value.shape[axis] == 1:
            value = value.select(axis, 0)
        if value.shape != zeros.shape:
            raise LiftError(
                f"initial[{leaf.name!r}] has shape {tuple(value.shape)}, but one row of the state has "
                f"{tuple(zeros.shape)}."
            )
        values[leaf.name] = value.detach().clone()
    if given:
        raise LiftError(f"initial names {sorted(given)}, but the declared states are {list(values)}.")
    return values


def _contract(
    flat: FlatModel,
    axes: Axes,
    found: Sequence[Lifted],
    values: Mapping[str, Tensor],
    sample_rate: int | None,
    chunk: int,
) -> StreamSpec:
    def shape(sizes: Sequence[int], batch: int, time: int | None) -> tuple[Dim, ...]:
        return tuple(BATCH if a == batch else TIME if a == time else int(n) for a, n in enumerate(sizes))

    inputs = [
        TensorSpec(leaf.name, _dtype(leaf.example), shape(leaf.example.shape, b, t))
        for leaf, b, t in zip(flat.inputs, axes.input_batch, axes.input_time, strict=True)
    ]
    outputs = [
        TensorSpec(name, _dtype(t), shape(t.shape, b, time))
        for name, t, b, time in zip(flat.outputs, flat.first, axes.output_batch, axes.output_time, strict=False)
    ]
    rows = {leaf.name: values[leaf.name] for leaf in flat.states} | {s.name: s.initial for s in found}
    states = [
        StateSpec(
            name, name, f"{name}.next", _dtype(row), (BATCH, *row.shape), "stored" if bool(row.any()) else "zeros"
        )
        for name, row in rows.items()
    ]
    return StreamSpec(tuple(inputs), tuple(outputs), tuple(states), chunk=chunk, sample_rate=sample_rate)


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
