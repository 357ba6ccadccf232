"""Drives a torch module in a closed loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rnn_export.contract.layout import canonical_frames, row_by_row
from rnn_export.contract.spec import StreamSpec
from rnn_export.platform.arrays import Array
from rnn_export.runtime.replay.drivers import StepDriver


def torch_driver(
    spec: StreamSpec,
    module: Callable[..., Sequence[Tensor]],
    states: Mapping[str, Array],
    leaves_out_delay: bool = False,
) -> StepDriver:
    """A driver of `module`, (inputs..., states...) -> (outputs..., next states...) in the order of `spec`.

    `states` are those of the contract that it takes, by name, (rows, ...); it keeps the others itself. Outputs of whole
    sequences lack the delay (`leaves_out_delay`). Arrays are copied in both directions: `module` may write to its
    arguments, and may change its results later.
    """
    names = [*(t.name for t in spec.outputs), *(s.output for s in spec.states if s.name in states)]

    def call(feed: dict[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            results = module(*map(torch.tensor, feed.values()))
        return {name: value.detach().numpy().copy() for name, value in zip(names, results, strict=True)}

    return StepDriver(spec, row_by_row(spec, call), states, leaves_out_delay)


def inputs_of(spec: StreamSpec, tensors: Sequence[Tensor]) -> dict[str, Array]:
    """The inputs of one call of the graph, by name, as (rows, frames, ...)."""
    return {t.name: canonical_frames(spec, t, value.numpy()) for t, value in zip(spec.inputs, tensors, strict=False)}
