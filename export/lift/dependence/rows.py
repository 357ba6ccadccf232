"""Where the rows of the batch stand in every value of a graph, and where they mix, so that streams hear each other."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from rnn_export.export.lift.dependence.drawn import PICKING
from rnn_export.export.lift.dependence.layout import AxisLayout, Dependence, growing_axes
from rnn_export.export.lift.dependence.operators import CellsMixed, NotDecided, Operators
from rnn_export.export.lift.program.compare import INITIAL_ROWS, same
from rnn_export.export.lift.program.fx import TAKE_SIZES, args_of, depends_on, placeholders, values_of


@dataclass(frozen=True)
class Numbered:
    """A value without rows of the input that is another one for each row, such as their numbers."""


@dataclass(frozen=True)
class Mixed:
    """A value in which rows depend on each other, since the operator of `node`."""

    node: fx.Node
    reason: str


# Of one value; None where it is the same for all rows.
RowInfo = AxisLayout | Numbered | Mixed | None
NodeRows = RowInfo | list[RowInfo]
# How a node that is no plain operator treats rows.
RowRule = Callable[["Rows", fx.Node], NodeRows]

DEPEND = (
    "rows of the batch depend on each other, so streams that are computed in one batch would hear each other. Compute "
    "each row from itself alone."
)
NUMBERED = "it treats each row of the batch by its number, which a stream alone has not. Treat all rows alike."
COUNTED = "the number of rows is used as a value, which streams in one batch would see. Compute each row from itself."


class Rows:
    """A graph followed along the batch, in two runs, one with more rows.

    Attributes:
        info: by node, where its rows stand; one for each result where it has several.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        few: Mapping[fx.Node, Any],
        more: Mapping[fx.Node, Any],
        inputs: Sequence[RowInfo],
        rules: Mapping[Any, RowRule],
    ) -> None:
        """`inputs` says where the rows stand in what the graph takes; `rules` are by operator, or class of module."""
        self.module, self.few, self.more, self.rules = module, few, more, rules
        nodes = placeholders(module.graph)
        known = zip(nodes, inputs, strict=True)
        self.count = next((at.cells_in(few[n]) for n, at in known if isinstance(at, AxisLayout)), 1)
        self.info: dict[fx.Node, NodeRows] = dict(zip(nodes, inputs, strict=True))
        moving = depends_on(module.graph, [n for n in nodes if self.info[n] is not None])
        self.operators = Operators(few, more, lambda node: node not in moving)
        for node in module.graph.nodes:
            if node.op in ("call_function", "call_module"):
                self.info[node] = self._of(node)

    def of(self, node: fx.Node) -> RowInfo:
        """Of a value; of several, the first that has rows."""
        info = self.info.get(node)
        return next((i for i in info if i is not None), None) if isinstance(info, list) else info

    def result_of(self, node: fx.Node, index: int) -> RowInfo:
        """Of one result of a node that gives several."""
        infos = self.info[node]
        return infos[index] if isinstance(infos, list) else infos

    def growth(self, node: fx.Node, result: int | None = None) -> list[int]:
        """The axes of a value, or of one of several, that grow with the number of rows."""
        few, more = (run[node] if result is None else run[node][result] for run in (self.few, self.more))
        return growing_axes(few, more)

    def _of(self, node: fx.Node) -> NodeRows:
        if node.target is operator.getitem:
            return self.result_of(*args_of(node))
        if not isinstance(self.few[node], Tensor | tuple | list):
            return None
        taken = [info for n in values_of(node) if (info := self.of(n)) is not None]
        if mixed := next((i for i in taken if isinstance(i, Mixed)), None):
            return mixed
        is_module = node.op == "call_module"
        rule = self.rules.get(type(self.module.get_submodule(str(node.target))) if is_module else node.target)
        return rule(self, node) if rule else self._by_operator(node, taken)

    def _by_operator(self, node: fx.Node, taken: Sequence[RowInfo]) -> NodeRows:
        if node.target not in TAKE_SIZES and any(self._is_count(n) for n in node.all_input_nodes):
            return Mixed(node, COUNTED)
        layouts = {n: at for n in node.all_input_nodes if isinstance(at := self.of(n), AxisLayout)}
        if not layouts:
            return self._without_rows(node)
        if any(isinstance(i, Numbered) for i in taken) and node.target not in PICKING:
            return Mixed(node, NUMBERED)
        try:
            found = self.operators.dependences(node, layouts)
        except NotDecided as error:
            return Mixed(node, f"what it does along the batch could not be tried: {error}")
        except CellsMixed:
            return Mixed(node, DEPEND)
        infos: list[RowInfo] = [
            at if isinstance(at, AxisLayout) else None if at is Dependence.NONE else Mixed(node, DEPEND) for at in found
        ]
        return infos[0] if isinstance(self.few[node], Tensor) else infos

    def _is_count(self, node: fx.Node) -> bool:
        """Whether a number grows with the number of rows."""
        return isinstance(self.few[node], int) and self.few[node] != self.more[node]

    def _without_rows(self, node: fx.Node) -> NodeRows:
        if isinstance(self.few[node], Tensor):
            return self._alike(self.few[node], self.growth(node))
        return [self._alike(value, self.growth(node, i)) for i, value in enumerate(self.few[node])]

    def _alike(self, value: Tensor, growth: Sequence[int]) -> RowInfo:
        """None where the value is the same for all rows."""
        if not growth:
            return None
        inner = value.shape[growth[0]] // self.count
        for layout in (AxisLayout(growth[0], 1, inner), AxisLayout(growth[0], inner, 1)):
            split = layout.split(value)
            if same(split, split.narrow(layout.axis + 1, 0, 1).expand_as(split), INITIAL_ROWS):
                return None
        return Numbered()
