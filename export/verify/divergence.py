"""Find the first divergence of a stream from the whole, by the outputs of every submodule before and after lifting."""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from rnn_export.contract.precision import Tolerance
from rnn_export.export.lift.ir.fx_nodes import paths_of
from rnn_export.export.lift.model.torch_driver import torch_driver
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.reference import initial_states, own_calls, own_driver
from rnn_export.runtime.replay.closed_loop import ClosedLoop


def first_divergent_module(model: StreamingModel, loop: ClosedLoop, tolerance: Tolerance) -> str:
    """A sentence that names the first module whose output diverges, and at which step; empty where none can be told."""
    own, streamed = _own_outputs(model, loop), _streamed_outputs(model, loop)
    for path, want in own.items():
        if path in streamed and (step := _first_divergence(streamed[path], want, tolerance)) is not None:
            kind = type(model.original.model.get_submodule(path)).__name__
            return f"The first module whose output diverges is {path!r} ({kind}), at its frame {step}. "
    return ""


def _own_outputs(model: StreamingModel, loop: ClosedLoop) -> dict[str, list[Tensor]]:
    """By path, the outputs of modules that are called once in each call of the user's module."""
    flat = copy.deepcopy(model.original)
    found: dict[str, list[Tensor]] = {}
    paths = {module: path for path, module in flat.model.named_modules()}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        tensors = [t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, Tensor)]
        if tensors:
            found.setdefault(paths[module], []).append(tensors[0].clone())

    for module in paths:
        # torch takes no hook of a script.
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_hook(keep)
    count = sum(1 for _ in loop.steps(own_driver(model, flat, loop.rows), own_calls(model, loop)))
    return {path: outputs for path, outputs in found.items() if len(outputs) == count}


def _streamed_outputs(model: StreamingModel, loop: ClosedLoop) -> dict[str, list[Tensor]]:
    """By path, the result of its last node in each step."""
    last: dict[str, fx.Node] = {}
    for node in model.module.graph.nodes:
        if node.op in ("call_function", "call_module"):
            last.update(dict.fromkeys(filter(None, paths_of(node)), node))
    recorder = fx.Interpreter(model.module, garbage_collect_values=False)
    found: dict[str, list[Tensor]] = {path: [] for path in last}

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        results: tuple[Tensor, ...] = recorder.run(*tensors)
        for path, node in last.items():
            value = recorder.env[node]
            value = value[0] if isinstance(value, tuple | list) else value
            if isinstance(value, Tensor):
                found[path].append(value.clone())
        return results

    count = sum(1 for _ in loop.steps(torch_driver(model.spec, step, initial_states(model, loop.rows))))
    return {path: values for path, values in found.items() if len(values) == count}


def _first_divergence(given: list[Tensor], want: list[Tensor], tolerance: Tolerance) -> int | None:
    """The first frame, from 1, at which the joined segments differ, however the two are aligned."""
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
            pairs = ((joined.narrow(axis, a, size), whole.narrow(axis, b, size)) for a, b in sides)
            found = [_first(a, b, axis, tolerance) for a, b in pairs]
            return None if None in found else max(f for f in found if f is not None)
    return None


def _first(given: Tensor, want: Tensor, axis: int, tolerance: Tolerance) -> int | None:
    error = (given.double() - want.double()).abs().nan_to_num(torch.inf).movedim(axis, 0).flatten(1).amax(1)
    outside = error > tolerance.atol + tolerance.rtol * float(want.double().abs().max())
    return int(outside.nonzero()[0]) + 1 if bool(outside.any()) else None
