"""Where a stream departs from the whole first: the outputs of every submodule of the model, and of its lifted form."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from rnn_export.arrays import Array
from rnn_export.export.lift.api import StreamingModel
from rnn_export.export.lift.capture import BatchFirst
from rnn_export.export.lift.program.fx import paths_of
from rnn_export.precision import Tolerance


def first_departure(
    model: StreamingModel, pieces: Sequence[Sequence[Array]], whole: Sequence[Sequence[Array]], tolerance: Tolerance
) -> str:
    """A sentence that names the first module whose output departs, and at which step; empty where none can be told.

    Args:
        model: what is wrong.
        pieces: the inputs of each step, in the layout of the graph.
        whole: the same as the user's module is called with them.
        tolerance: of each output, relative to its largest magnitude.
    """
    with torch.no_grad():
        own, stream = _own(model, whole), _streamed(model, pieces)
    for path, want in own.items():
        if path in stream and (step := _departs(stream[path], want, tolerance)) is not None:
            kind = type(model.original.model.get_submodule(path)).__name__
            return f"The first module whose output departs is {path or 'the model'!r} ({kind}), at its frame {step}. "
    return ""


def _states(model: StreamingModel, batch: int) -> list[Tensor]:
    return [model.initial[s.name].expand(batch, *s.row).contiguous() for s in model.spec.states]


def _batch(model: StreamingModel, arrays: Sequence[Array]) -> int:
    return int(arrays[0].shape[model.axes.input_batch[0]])


def _own(model: StreamingModel, calls: Sequence[Sequence[Array]]) -> dict[str, list[Tensor]]:
    """By path, the output of each call of the user's module; of modules that are called once in it."""
    flat = copy.deepcopy(model.original)
    found: dict[str, list[Tensor]] = {}
    paths = {module: path for path, module in flat.model.named_modules()}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        tensors = [t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, Tensor)]
        if tensors:
            found.setdefault(paths[module], []).append(tensors[0].clone())

    for module in paths:
        module.register_forward_hook(keep)
    states = _states(model, _batch(model, calls[0]))[: len(flat.states)]
    for arrays in calls:
        results = BatchFirst(flat, model.axes)(*map(torch.from_numpy, arrays), *states)
        states = list(results[len(model.spec.outputs) :])
    return {path: outputs for path, outputs in found.items() if len(outputs) == len(calls)}


def _streamed(model: StreamingModel, steps: Sequence[Sequence[Array]]) -> dict[str, list[Tensor]]:
    """By path, what the module's last node gives in each step."""
    last: dict[str, fx.Node] = {}
    for node in model.module.graph.nodes:
        if node.op in ("call_function", "call_module"):
            last.update(dict.fromkeys(["", *paths_of(node)], node))
    recorder = fx.Interpreter(model.module, garbage_collect_values=False)
    found: dict[str, list[Tensor]] = {path: [] for path in last}
    states = _states(model, _batch(model, steps[0]))
    for arrays in steps:
        results = recorder.run(*map(torch.from_numpy, arrays), *states)
        states = list(results[len(model.spec.outputs) :])
        for path, node in last.items():
            value = recorder.env[node]
            value = value[0] if isinstance(value, tuple | list) else value
            if isinstance(value, Tensor):
                found[path].append(value.clone())
    found[""] = []
    return {path: values for path, values in found.items() if len(values) == len(steps)}


def _departs(given: list[Tensor], want: list[Tensor], tolerance: Tolerance) -> int | None:
    """The first frame, from 1, at which the joined pieces are another value, however the two are laid side by side."""
    if len(given) == len(want) and all(a.shape == b.shape for a, b in zip(given, want, strict=True)):
        return _first(torch.stack(given), torch.stack(want), 0, tolerance)
    if len(want) != 1 or given[0].dim() != want[0].dim():
        return None
    (whole,) = want
    for axis in range(whole.dim()):
        others = [a for a in range(whole.dim()) if a != axis]
        if all(given[0].shape[a] == whole.shape[a] for a in others) and given[0].shape[axis] != whole.shape[axis]:
            joined = torch.cat(given, axis)
            size = min(joined.shape[axis], whole.shape[axis])
            sides = ((0, 0), (joined.shape[axis] - size, whole.shape[axis] - size))
            found = [
                _first(joined.narrow(axis, a, size), whole.narrow(axis, b, size), axis, tolerance) for a, b in sides
            ]
            return None if None in found else max(f for f in found if f is not None)
    return None


def _first(given: Tensor, want: Tensor, axis: int, tolerance: Tolerance) -> int | None:
    error = (given.double() - want.double()).abs().nan_to_num(torch.inf).movedim(axis, 0).flatten(1).amax(1)
    outside = error > tolerance.atol + tolerance.rtol * float(want.double().abs().max())
    return int(outside.nonzero()[0]) + 1 if bool(outside.any()) else None
