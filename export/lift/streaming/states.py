"""The states that a pass finds: what each is, and how its rows stand in a value of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from rnn_export.export.lift.program.fx import aten


@dataclass(frozen=True)
class Kept:
    """A state that was found: its name, the row that it starts from, what kind it is and why it is there."""

    name: str
    initial: Tensor
    kind: str
    why: str


@dataclass(frozen=True)
class Rows:
    """Where the rows of B streams stand in a value, with `inner` others behind (major) or before each (not major).

    The row of one stream leaves out `lead` axes of size 1 before the batch.
    """

    axis: int
    inner: int
    major: bool
    lead: int

    def rows(self, value: Tensor, batch: int) -> Tensor:
        """(B, inner, ...) or, with none merged, (B, ...)."""
        moved = value.reshape(value.shape[self.lead :]).movedim(self.axis - self.lead, 0)
        if self.inner == 1:
            return moved
        split = (batch, self.inner) if self.major else (self.inner, batch)
        shaped = moved.reshape(*split, *moved.shape[1:])
        return shaped if self.major else shaped.transpose(0, 1)

    def own_nodes(self, graph: fx.Graph, state: fx.Node, like: Tensor) -> fx.Node:
        """The value from the state (B, ...), at the graph's insertion point."""
        rest = [n for a, n in enumerate(like.shape) if a != self.axis and a >= self.lead]
        axis = self.axis - self.lead
        if self.inner != 1:
            if not self.major:
                state = graph.call_function(aten.transpose.int, (state, 0, 1))
            state = graph.call_function(aten.reshape.default, (state, [-1, *rest]))
        if axis:
            order = [*range(1, axis + 1), 0, *range(axis + 1, len(rest) + 1)]
            state = graph.call_function(aten.permute.default, (state, order))
        for _ in range(self.lead):
            state = graph.call_function(aten.unsqueeze.default, (state, 0))
        return state

    def row_nodes(self, graph: fx.Graph, value: fx.Node, row: Sequence[int]) -> fx.Node:
        """The inverse of `own_nodes`; `row` is the shape of one stream's state."""
        for _ in range(self.lead):
            value = graph.call_function(aten.squeeze.dim, (value, 0))
        axis = self.axis - self.lead
        if axis:
            rank = len(row) + (1 if self.inner == 1 else 0)
            order = [axis, *(a for a in range(rank) if a != axis)]
            value = graph.call_function(aten.permute.default, (value, order))
        if self.inner == 1:
            return value
        shape = [-1, *row] if self.major else [self.inner, -1, *row[1:]]
        value = graph.call_function(aten.reshape.default, (value, shape))
        return value if self.major else graph.call_function(aten.transpose.int, (value, 0, 1))


def matching(moved: Tensor, few: Tensor, axis: int) -> int:
    """The axis of `moved` that is the batch axis of `few`, a value or a part of one with the same number of axes."""
    if moved.dim() == few.dim():
        return axis
    return next(a for a in range(moved.dim()) if moved.shape[a] == few.shape[axis])
