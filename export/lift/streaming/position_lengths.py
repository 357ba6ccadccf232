"""The number of positions: the nodes of a graph that give the number of frames of a value."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from torch import Tensor, fx

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
