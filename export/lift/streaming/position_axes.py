"""The number of positions, and the rows that they meet, of which a stream may have several, bands for example."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from rnn_export.export.lift.ir.dependence.axis_table import is_pointwise
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout, growing_axes
from rnn_export.export.lift.ir.dependence.row_dependence import Rows
from rnn_export.export.lift.ir.fx_nodes import aten, placeholders
from rnn_export.export.lift.streaming.recorded_runs import RecordedRuns


@dataclass(frozen=True)
class Length:
    """A number of frames, by the node that gives it; `key` has its value in both runs."""

    node: fx.Node
    key: tuple[int, int]


class PositionLengths:
    """The numbers of frames among the recorded nodes, in order."""

    def __init__(self, graph: fx.Graph, runs: RecordedRuns) -> None:
        self.graph, self.runs = graph, runs
        self._found: dict[tuple[int, int], fx.Node] = {}
        self._values: dict[tuple[int, int], tuple[fx.Node, int]] = {}
        for node in placeholders(graph):
            self.note(node)

    def note(self, node: fx.Node) -> None:
        """Record a length, or a value that has frames."""
        if self.runs.grows(node):
            self._found.setdefault((self.runs.base[node], self.runs.longer[node]), node)
        if isinstance(self.runs.base[node], Tensor):
            for axis, (here, there) in enumerate(
                zip(self.runs.base[node].shape, self.runs.longer[node].shape, strict=True)
            ):
                if here != there:
                    self._values.setdefault((here, there), (node, axis))

    def of(self, node: fx.Node, axis: int) -> Length | None:
        """The node of a value's number of frames: a number before it, or a size of a value with as many."""
        key = int(self.runs.base[node].shape[axis]), int(self.runs.longer[node].shape[axis])
        if key not in self._found and key in self._values:
            value, frames = self._values[key]
            after = placeholders(self.graph)[-1] if value.op == "placeholder" else value
            with self.graph.inserting_after(after):
                self._found[key] = self.graph.call_function(aten.sym_size.int, (value, frames))
        if key not in self._found:
            self._share(key, node)
        return Length(self._found[key], key) if key in self._found else None

    def _share(self, key: tuple[int, int], before: fx.Node) -> None:
        """Record a number of frames that is an input's own divided by an integer, computed `before` a node."""
        for (here, there), (value, axis) in self._values.items():
            if value.op != "placeholder" or here % key[0] or here // key[0] * key[1] != there:
                continue
            with self.graph.inserting_before(before):
                frames = self.graph.call_function(aten.sym_size.int, (value, axis))
                self._found[key] = self.graph.call_function(operator.floordiv, (frames, here // key[0]))
            return


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
