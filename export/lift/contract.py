"""The contract of a lifted model: named tensors and states, initial values and its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from rnn_export.contract.spec import BATCH, DTYPES, TIME, Dim, StateSpec, StreamSpec, TensorSpec
from rnn_export.contract.tensor_spec import rated
from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.axes.axes import Axes
from rnn_export.export.lift.ir.compare import EXACT, same
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.streaming import Streamed


def initial_rows(flat: FlatModel, axes: Axes, initial: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The row that each state of the model starts from: `initial`, else the module's value or zeros."""
    declared = dict(initial or {})
    values = {}
    for leaf, layout in zip(flat.states, axes.states, strict=True):
        rows, is_module_state = layout.example_rows(leaf.example), flat.module_state_at(leaf.name) is not None
        if is_module_state and not same(rows, rows[:1].expand_as(rows), EXACT):
            raise LiftError(
                f"{leaf.name!r} holds other values in each row of its batch, so no row can start alone: "
                "reset the model before export.",
                id="initial-rows-differ",
            )
        usual = rows[0] if is_module_state else torch.zeros_like(rows[0])
        try:
            value = torch.as_tensor(declared.pop(leaf.name, usual), dtype=usual.dtype)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LiftError(
                f"initial[{leaf.name!r}] cannot be read as a tensor: {first_line(error)}", id="initial-unreadable"
            ) from None
        axis = layout.axis
        if value.shape != usual.shape and value.dim() == leaf.example.dim() and value.shape[axis] == 1:
            value = value.select(axis, 0)
        if value.shape != usual.shape:
            shapes = f"shape {tuple(value.shape)}, but one row of the state has {tuple(usual.shape)}"
            raise LiftError(f"initial[{leaf.name!r}] has {shapes}.", id="initial-shapes-unfit")
        values[leaf.name] = value.detach().clone()
    if declared:
        raise LiftError(
            f"initial names {sorted(declared)}, but the states of the model are {list(values)}.",
            id="initial-names-unknown",
        )
    return values


def contract(
    flat: FlatModel, axes: Axes, streamed: Streamed, sample_rate: int | None, chunk: int, sequence_only: bool
) -> StreamSpec:
    """The contract without its digest; raises LiftError if a tensor has a dtype that no stream has."""

    def tensor(name: str, example: Tensor, batch: int | None, time: int | None) -> TensorSpec:
        if batch is None:
            example, batch, time = example[None], 0, None if time is None else time + 1
        sizes = enumerate(example.shape)
        shape: list[Dim] = [BATCH if a == batch else TIME if a == time else int(n) for a, n in sizes]
        return TensorSpec(name, _dtype_of(name, example), tuple(shape))

    def state(name: str, initial: Tensor) -> StateSpec:
        dtype, shape = _dtype_of(name, initial), (BATCH, *initial.shape)
        return StateSpec(name, name, f"{name}.next", dtype, shape, "stored" if bool(initial.any()) else "zeros")

    fed = zip(flat.inputs, axes.input_batch, axes.input_time, strict=True)

    def output(tensor: TensorSpec, rate: Fraction, lengths: tuple[int, ...]) -> TensorSpec:
        shape = tuple(rated(rate) if dim == TIME else dim for dim in tensor.shape)
        return replace(tensor, shape=shape, lengths=lengths)

    given = zip(flat.outputs, flat.example_outputs, axes.output_batch, axes.output_time, strict=True)
    inputs = tuple(tensor(leaf.name, leaf.example, batch, time) for leaf, batch, time in fed)
    plain = (tensor(*leaf) for leaf in given)
    outputs = tuple(output(*each) for each in zip(plain, streamed.rates, streamed.lengths, strict=True))
    states = tuple(state(s.name, s.initial) for s in streamed.states)
    rows: Literal[1] | None = 1 if axes.one_row else None
    return StreamSpec(
        inputs, outputs, states, chunk, streamed.delay, sample_rate, sequence_only, rows=rows, end=streamed.end
    )


def _dtype_of(name: str, tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise LiftError(
            f"{name!r} is {dtype}, which a stream does not have: convert it in the model to one of "
            f"{', '.join(DTYPES)}.",
            id="tensor-dtype-unknown",
        )
    return dtype


def digest_of(spec: StreamSpec, model: nn.Module, initial: Mapping[str, Tensor]) -> str:
    """sha256 over the contract, the initial states and the source weights."""
    digest = hashlib.sha256(replace(spec, digest="").dumps().encode())
    # Buffers that are not persistent are no part of the state dict, but they make the outputs too.
    weights = {**dict(model.named_buffers()), **model.state_dict()}
    tensors = [(name, value) for name, value in weights.items() if isinstance(value, Tensor)]
    for name, tensor in sorted([*tensors, *initial.items()], key=lambda item: item[0]):
        value = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
