"""The values of every node of a graph in four runs on noise: what the rules read sizes and values from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.dependence.frames import growing_axes
from rnn_export.export.lift.program.fx import recorded

BATCH, OTHER_BATCH = 2, 3
# Frames beyond the receptive field.
MARGIN = 8

# (batch, frames, seed) to all inputs of a graph.
Sample = Callable[[int, int, int], Sequence[Tensor]]


@dataclass(frozen=True)
class RecordedRuns:
    """Values by node: of a batch of BATCH over `frames`, the same over `longer_frames`, the same for a batch of
    OTHER_BATCH, and the same as `base` with another first row.
    """

    frames: int
    longer_frames: int
    base: dict[fx.Node, Any]
    longer: dict[fx.Node, Any]
    other_batch: dict[fx.Node, Any]
    other_row: dict[fx.Node, Any]

    @property
    def all(self) -> tuple[dict[fx.Node, Any], ...]:
        return self.base, self.longer, self.other_batch, self.other_row

    def grows(self, node: fx.Node) -> bool:
        """Whether `node` is a number that grows with the length of the sequence."""
        value = self.base.get(node)
        return isinstance(value, int) and value != self.longer[node]


def record(module: fx.GraphModule, sample: Sample, unit: int, receptive_field: int) -> RecordedRuns:
    """Run `module` over a multiple of `unit` frames beyond `receptive_field`; LiftError where it does not take them."""
    frames = unit * (math.ceil(receptive_field / unit) + MARGIN)
    base, longer = sample(BATCH, frames, 0), sample(BATCH, frames + unit, 0)
    new, other_batch = sample(BATCH, frames, 2), sample(OTHER_BATCH, frames, 1)
    other_row = [_with_first_row(b, n, o) for b, n, o in zip(base, new, other_batch, strict=True)]
    try:
        runs = [recorded(module, tensors) for tensors in (base, longer, other_batch, other_row)]
    except Exception as error:  # a length that the model does not take may raise anything
        raise LiftError(f"the model fails on {frames} or {frames + unit} frames: {first_line(error)}") from error
    return RecordedRuns(frames, frames + unit, *runs)


def _with_first_row(value: Tensor, new: Tensor, other_batch: Tensor) -> Tensor:
    """`value` with the first row of `new`; `other_batch` shows along which axis the rows stand."""
    axis = growing_axes(value, other_batch)[0]
    return torch.cat([new.narrow(axis, 0, 1), value.narrow(axis, 1, value.shape[axis] - 1)], axis)
