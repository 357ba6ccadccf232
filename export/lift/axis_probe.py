"""A model run on noise of other sizes, to see what its axes do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.noise import Noise, draw_states
from rnn_export.export.lift.program.signature import FlatModel
from rnn_export.export.lift.row_layout import RowLayout

# For each input, or each output, an axis; None for no axis.
Assignment = tuple[int | None, ...]


class AxisProbe:
    """Runs `model`, which must be a copy that may be run at will.

    `failure` is why the last run gave nothing. Raises LiftError where the model fails on its example.
    """

    def __init__(self, model: FlatModel) -> None:
        self.model, self.noise = model, Noise(model)
        self.inputs, self.states = model.inputs, model.states
        self.failure = ""
        if self._call([leaf.example for leaf in (*self.inputs, *self.states)]) is None:
            raise LiftError(f"the model fails on its own example inputs: {self.failure}")

    def draw(self, batch: int, sizes: Sequence[Mapping[int, int]], states: Sequence[RowLayout]) -> list[Tensor]:
        """Noise: for each input with `sizes` along some axes, and for the states (B, *row)."""
        drawn = [self.noise.like(leaf.example, s) for leaf, s in zip(self.inputs, sizes, strict=True)]
        return [*drawn, *draw_states(self.model, states, self.noise, batch)]

    def run(self, states: Sequence[RowLayout], tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """Outputs, and next states (B, *row); None where the model fails, or a state comes back in another shape."""
        inputs, outputs = len(self.inputs), len(self.model.outputs)
        fed = [layout.tensor(rows) for layout, rows in zip(states, tensors[inputs:], strict=True)]
        results = self._call([*tensors[:inputs], *fed])
        if results is None:
            return None
        if any(a.shape != b.shape for a, b in zip(fed, results[outputs:], strict=True)):
            self.failure = "a state comes back in another shape than it went in"
            return None
        return [*results[:outputs], *(a.rows(t) for a, t in zip(states, results[outputs:], strict=True))]

    def _call(self, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        try:
            with torch.no_grad():
                return list(self.model(*tensors))
        except Exception as error:  # a size that the model does not take may raise anything
            self.failure = f"{type(error).__name__}: {first_line(error)}"
            return None

    def by_name(self, axes: Assignment) -> str:
        """`axes` of the inputs and states as the user would write them."""
        leaves = (*self.inputs, *self.states)
        return str({leaf.name: axis for leaf, axis in zip(leaves, axes, strict=False)})


def changed_axes(a: Tensor, b: Tensor) -> list[int]:
    """The axes whose sizes differ; two of them, -1, where the ranks do."""
    if a.dim() != b.dim():
        return [-1, -1]
    return [axis for axis in range(a.dim()) if a.shape[axis] != b.shape[axis]]
