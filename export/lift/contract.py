"""The contract of a lifted model: its tensors and states by name, where they start, and its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.axes import Axes
from rnn_export.export.lift.program.compare import EXACT, same
from rnn_export.export.lift.program.signature import FlatModel
from rnn_export.export.lift.streaming import LiftedState, Streamed
from rnn_export.spec import BATCH, DTYPES, TIME, Dim, StateSpec, StreamSpec, TensorSpec


def initial_rows(flat: FlatModel, axes: Axes, initial: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The row that each state of the model starts from: `initial`, else zeros, or what a buffer holds."""
    declared = dict(initial or {})
    values = {}
    for leaf, layout in zip(flat.states, axes.states, strict=True):
        rows = layout.example_rows(leaf.example)
        if leaf.name in flat.buffer_states:
            if not same(rows, rows[:1].expand_as(rows), EXACT):
                raise LiftError(
                    f"buffer {leaf.name!r} holds other values in each row of its batch, so no row can start alone: "
                    "reset the model before export."
                )
            usual = rows[0]
        else:
            usual = torch.zeros_like(rows[0])
        try:
            value = torch.as_tensor(declared.pop(leaf.name, usual), dtype=usual.dtype)
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
    if declared:
        raise LiftError(f"initial names {sorted(declared)}, but the states of the model are {list(values)}.")
    return values


def contract(
    flat: FlatModel,
    axes: Axes,
    states: Sequence[LiftedState],
    streamed: Streamed,
    sample_rate: int | None,
    chunk: int,
    sequence_only: bool,
) -> StreamSpec:
    """The contract, without its digest; raises LiftError where a tensor has a dtype that a stream does not have."""

    def shape(sizes: Sequence[int], batch: int, time: int | None, every: int = 1) -> tuple[Dim, ...]:
        symbol = TIME if every == 1 else f"{TIME}/{every}"
        return tuple(BATCH if a == batch else symbol if a == time else int(n) for a, n in enumerate(sizes))

    inputs = tuple(
        TensorSpec(leaf.name, dtype_of(leaf.name, leaf.example), shape(leaf.example.shape, b, t))
        for leaf, b, t in zip(flat.inputs, axes.input_batch, axes.input_time, strict=True)
    )
    outputs = tuple(
        TensorSpec(name, dtype_of(name, t), shape(t.shape, b, time, every))
        for name, t, b, time, every in zip(
            flat.outputs, flat.example_outputs, axes.output_batch, axes.output_time, streamed.every, strict=True
        )
    )
    state_specs = tuple(
        StateSpec(
            s.name,
            s.name,
            f"{s.name}.next",
            dtype_of(s.name, s.initial),
            (BATCH, *s.initial.shape),
            "stored" if bool(s.initial.any()) else "zeros",
        )
        for s in states
    )
    delay = streamed.delay
    return StreamSpec(inputs, outputs, state_specs, chunk, delay, sample_rate, sequence_only=sequence_only)


def dtype_of(name: str, tensor: Tensor) -> str:
    """The dtype of `name` in the words of the contract; raises LiftError where it has none."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_complex():
        raise LiftError(f"{name!r} is {dtype}: keep its real and its imaginary part as two tensors.")
    if dtype not in DTYPES:
        raise LiftError(f"{name!r} is {dtype}, which a stream does not have: call model.float() before export.")
    return dtype


def digest_of(spec: StreamSpec, model: nn.Module, initial: Mapping[str, Tensor]) -> str:
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
