"""The axis of the rows in the values that positions meet; a stream may have several rows, bands for example."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx

from rnn_export.export.lift.ir.dependence.axis_table import is_pointwise
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout, growing_axes
from rnn_export.export.lift.ir.dependence.row_dependence import Rows
from rnn_export.export.lift.ir.fx_nodes import placeholders
from rnn_export.export.lift.streaming.recorded_runs import RecordedRuns


class MetRows:
    """The batch of one graph; `rows_in` has its axis in each input, None for a single stream.

    `rows` tells the rows of a stream apart, if one that has several was met.
    """

    def __init__(self, graph: fx.Graph, runs: RecordedRuns, rows_in: Sequence[int] | None) -> None:
        self.graph, self.runs, self.rows_in = graph, runs, rows_in
        self.rows: Rows | None = None

    @property
    def count(self) -> int:
        assert self.rows_in is not None
        return int(self.runs.base[placeholders(self.graph)[0]].shape[self.rows_in[0]])

    def axis(self, node: fx.Node) -> int | None:
        """The batch axis of a value, if it has one."""
        axes = growing_axes(self.runs.base[node], self.runs.other_batch[node])
        return axes[0] if axes and self.rows_in is not None else None

    def has_several(self, node: fx.Node) -> bool:
        """True if a stream has several rows in a value."""
        batch = self.axis(node) if isinstance(self.runs.base.get(node), Tensor) else None
        return batch is not None and int(self.runs.base[node].shape[batch]) != self.count

    def layout(self, node: fx.Node) -> AxisLayout | None:
        """The layout of the rows in a value, or in all of its pointwise users; None if it is unknown."""
        info = None if self.rows is None else self.rows.of(node)
        if isinstance(info, AxisLayout):
            return info
        shape, batch = self.runs.base[node].shape, self.axis(node)
        if info is not None or any(
            not is_pointwise(user.target) or self.runs.base[user].shape != shape or self.axis(user) != batch
            for user in node.users
        ):
            return None
        found = {self.layout(user) for user in node.users}
        return found.pop() if len(found) == 1 else None
