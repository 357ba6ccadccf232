"""How a state of axes (B, ...) becomes a value in the layout of the graph, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from rnn_export.export.lift.dependence.rows import BatchLayout
from rnn_export.export.lift.program.fx import aten


@dataclass(frozen=True)
class StateLayout:
    """The layout of a value whose rows are states.

    Attributes:
        batch: where the batch stands in the value.
        lead: axes of size 1 before the batch, which a state leaves out.
    """

    batch: BatchLayout
    lead: int

    @classmethod
    def of(cls, value: Tensor, batch: BatchLayout) -> StateLayout:
        return cls(batch, batch.axis if all(n == 1 for n in value.shape[: batch.axis]) else 0)

    @property
    def _batch_axis(self) -> int:
        return self.batch.axis - self.lead

    def rows(self, value: Tensor, batch: int) -> Tensor:
        """(B, factor, ...) or, where a stream has one row alone, (B, ...)."""
        moved = value.reshape(value.shape[self.lead :]).movedim(self._batch_axis, 0)
        if self.batch.factor == 1:
            return moved
        sizes = (batch, self.batch.factor) if self.batch.batch_major else (self.batch.factor, batch)
        rows = moved.reshape(*sizes, *moved.shape[1:])
        return rows if self.batch.batch_major else rows.transpose(0, 1)

    def value_of(self, graph: fx.Graph, state: fx.Node, like: Tensor) -> fx.Node:
        """The value in this layout, sizes as in `like`, from the state (B, ...); at the graph's insertion point."""
        rest = [n for a, n in enumerate(like.shape) if a != self.batch.axis and a >= self.lead]
        axis = self._batch_axis
        if self.batch.factor != 1:
            if not self.batch.batch_major:
                state = graph.call_function(aten.transpose.int, (state, 0, 1))
            state = graph.call_function(aten.reshape.default, (state, [-1, *rest]))
        if axis:
            order = [*range(1, axis + 1), 0, *range(axis + 1, len(rest) + 1)]
            state = graph.call_function(aten.permute.default, (state, order))
        for _ in range(self.lead):
            state = graph.call_function(aten.unsqueeze.default, (state, 0))
        return state

    def state_of(self, graph: fx.Graph, value: fx.Node, row: Sequence[int]) -> fx.Node:
        """The inverse of `value_of`; `row` is the shape of one stream's state."""
        for _ in range(self.lead):
            value = graph.call_function(aten.squeeze.dim, (value, 0))
        axis = self._batch_axis
        if axis:
            rank = len(row) + (1 if self.batch.factor == 1 else 0)
            order = [axis, *(a for a in range(rank) if a != axis)]
            value = graph.call_function(aten.permute.default, (value, order))
        if self.batch.factor == 1:
            return value
        sizes = [-1, *row] if self.batch.batch_major else [self.batch.factor, -1, *row[1:]]
        value = graph.call_function(aten.reshape.default, (value, sizes))
        return value if self.batch.batch_major else graph.call_function(aten.transpose.int, (value, 0, 1))
