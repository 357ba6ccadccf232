"""A lifted step against the model as a function: step after step, with the states fed back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.export.lift.streaming_model import StreamingModel

from ..lifting import lift  # noqa: TID252


class Call(nn.Module):
    """A model whose forward is a function of (self, ...); tensors among its parts are buffers."""

    def __init__(self, function: Callable[..., Any] | None, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            plain = isinstance(part, Tensor) and not isinstance(part, nn.Parameter)
            self.register_buffer(name, part) if plain else setattr(self, name, part)
        if function is not None:
            # torch notes the source lines of functions of this name only.
            function.__code__ = function.__code__.replace(co_name="forward")
        self.__class__ = type("Call", (Call,), {"forward": function})
        self.eval()


def stepped(lifted: StreamingModel, *inputs: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Outputs and states after each step; an input without time is held."""
    spec = lifted.spec
    axes = list(zip(inputs, lifted.axes.input_time, strict=True))
    rows = inputs[0].shape[lifted.axes.input_batch[0]]
    states = [lifted.initial[s.name].expand(rows, *s.row) for s in spec.states]
    frames = next(x.shape[axis] for x, axis in axes if axis is not None)
    outputs, after = [], []
    with torch.no_grad():
        for start in range(0, frames - spec.chunk + 1, spec.chunk):
            piece = [x if axis is None else x.narrow(axis, start, spec.chunk) for x, axis in axes]
            results = list(lifted.module(*piece, *states))
            outputs.append(results[: len(spec.outputs)])
            states = results[len(spec.outputs) :]
            after.append(states)
    return outputs, after


def assert_streams(model: nn.Module, *example: Tensor, **options: Any) -> StreamingModel:
    """Lift `model` and hold the step to it, over whole sequences or call by call; gives what was lifted."""
    lifted = lift(model, example, **options)
    assert_lifted_streams(lifted, model, example)
    return lifted


def assert_lifted_streams(
    lifted: StreamingModel, model: nn.Module, example: tuple[Tensor, ...], atol: float = 2e-6
) -> None:
    """Hold the step to the model, over whole sequences or call by call."""
    (_by_sequence if lifted.spec.has_time else _by_call)(model, lifted, example, atol)


def _by_sequence(model: nn.Module, lifted: StreamingModel, example: tuple[Tensor, ...], atol: float) -> None:
    spec, axes = lifted.spec, lifted.axes
    frames = spec.chunk * (8 + -(-spec.delay // spec.chunk))
    batch = example[0].shape[axes.input_batch[0]]
    inputs = [
        _noise(x, {b: 2 * batch} if t is None else {b: 2 * batch, t: frames})
        for x, b, t in zip(example, axes.input_batch, axes.input_time, strict=True)
    ]
    wholes = []
    for start in (0, batch):  # a buffer may have the batch of the example only
        rows = [x.narrow(b, start, batch) for x, b in zip(inputs, axes.input_batch, strict=True)]
        with torch.no_grad():
            given = copy.deepcopy(model)(*rows)
        wholes.append(list(given) if isinstance(given, tuple) else [given])
    outputs, _ = stepped(lifted, *inputs)
    for i, tensor in enumerate(spec.outputs):
        want = torch.cat([whole[i] for whole in wholes], axes.output_batch[i])
        time = axes.output_time[i]
        if time is None:
            got = outputs[-1][i]
        else:
            late = spec.delay // tensor.every
            joined = torch.cat([step[i] for step in outputs], time)
            got = joined.narrow(time, late, joined.shape[time] - late)
            assert got.shape[time] == (frames - spec.delay) // tensor.every
            want = want.narrow(time, 0, got.shape[time])
        torch.testing.assert_close(got, want, rtol=1e-5, atol=atol)


def _by_call(model: nn.Module, lifted: StreamingModel, example: tuple[Tensor, ...], atol: float) -> None:
    spec, axes = lifted.spec, lifted.axes
    batch = example[0].shape[axes.input_batch[0]]
    own = [copy.deepcopy(model) for _ in range(2)]
    states = [lifted.initial[s.name].expand(2 * batch, *s.row) for s in spec.states]
    for _ in range(6):
        inputs = [_noise(x, {b: 2 * batch}) for x, b in zip(example, axes.input_batch, strict=True)]
        results = []
        with torch.no_grad():
            for start, module in zip((0, batch), own, strict=True):
                rows = [x.narrow(b, start, batch) for x, b in zip(inputs, axes.input_batch, strict=True)]
                given = module(*rows)
                results.append(list(given) if isinstance(given, tuple) else [given])
            outputs = list(lifted.module(*inputs, *states))
        states = outputs[len(spec.outputs) :]
        for i, axis in enumerate(axes.output_batch):
            want = torch.cat([whole[i] for whole in results], axis)
            torch.testing.assert_close(outputs[i], want, rtol=1e-5, atol=atol)


def _noise(like: Tensor, sizes: dict[int, int]) -> Tensor:
    shape = [sizes.get(axis, size) for axis, size in enumerate(like.shape)]
    return torch.randn(shape).to(like.dtype) if like.is_floating_point() else torch.randint(9, shape)
