"""Follows the rows of the batch through every value of a graph, and finds the operators that mix them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from rnn_export.export.lift.ir.compare import INITIAL_ROWS, same
from rnn_export.export.lift.ir.dependence.axis_table import MOVING
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout, Dependence, growing_axes
from rnn_export.export.lift.ir.dependence.drawn_values import PICKING
from rnn_export.export.lift.ir.dependence.operator_dependence import IndicesMixed, NotDecided, Operators
from rnn_export.export.lift.ir.fx_nodes import (
    NUMBERING,
    TAKE_SIZES,
    args_of,
    aten,
    depends_on,
    made_of_sizes,
    numbers_taken,
    overloads,
    placeholders,
    values_of,
)


@dataclass(frozen=True)
class Numbered:
    """A value without rows of the input that differs by row; `is_plain`: the row indices 0, 1, ..."""

    is_plain: bool = False


@dataclass(frozen=True)
class Mixed:
    """A value whose rows depend on each other since the operator of `node`."""

    node: fx.Node
    reason: str


# Of one value; None where it is the same for all rows.
RowInfo = AxisLayout | Numbered | Mixed | None
NodeRows = RowInfo | list[RowInfo]
# How a node that is no plain operator treats rows.
RowRule = Callable[["Rows", fx.Node], NodeRows]

# These leave the numbers of rows what they are.
RESHAPING = overloads("reshape expand permute unsqueeze squeeze.dim clone alias")
DEPEND = (
    "rows of the batch depend on each other, so streams that are computed in one batch would hear each other. Compute "
    "each row from itself alone."
)
NUMBERED = "it treats each row of the batch by its number, which a stream alone has not. Treat all rows alike."
COUNTED = "the number of rows is used as a value, which streams in one batch would see. Compute each row from itself."


class Rows:
    """A graph followed along the batch, in two runs, one with more rows.

    Attributes:
        info: by node, its row layout; a list for several results.
        alone: True if nothing has rows, since there is one stream.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        few: Mapping[fx.Node, Any],
        more: Mapping[fx.Node, Any],
        inputs: Sequence[RowInfo],
        rules: Mapping[Any, RowRule],
    ) -> None:
        """`inputs` are the row layouts of the graph's inputs; `rules` are by operator, or class of module."""
        self.module, self.few, self.more, self.rules = module, few, more, rules
        self.alone = all(info is None for info in inputs)
        nodes = placeholders(module.graph)
        known = zip(nodes, inputs, strict=True)
        self.count = next((at.indices_in(few[n]) for n, at in known if isinstance(at, AxisLayout)), 1)
        self.info: dict[fx.Node, NodeRows] = dict(zip(nodes, inputs, strict=True))
        self.sizes = made_of_sizes(module.graph, few, more)
        moving = depends_on(module.graph, [n for n in nodes if self.info[n] is not None])
        self.operators = Operators(few, more, lambda node: node not in moving)
        for node in module.graph.nodes:
            if node.op in ("call_function", "call_module"):
                self.info[node] = self._of(node)

    def of(self, node: fx.Node) -> RowInfo:
        """A node's info; of several, the first with rows."""
        info = self.info.get(node)
        return next((i for i in info if i is not None), None) if isinstance(info, list) else info

    def result_of(self, node: fx.Node, index: int) -> RowInfo:
        """The info of one of several results."""
        infos = self.info[node]
        return infos[index] if isinstance(infos, list) else infos

    def growth(self, node: fx.Node, result: int | None = None) -> list[int]:
        """The axes of a value, or of one result, that grow with the number of rows."""
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
        if not self.sizes.isdisjoint(numbers_taken(node)):
            return Mixed(node, COUNTED)
        layouts = {n: at for n in node.all_input_nodes if isinstance(at := self.of(n), AxisLayout)}
        numbers = [info for info in taken if isinstance(info, Numbered)]
        if not layouts:
            return self._numbered(node, numbers) if numbers else self._without_rows(node)
        if numbers and (node.target not in PICKING or not all(n.is_plain for n in numbers)):
            return Mixed(node, NUMBERED)
        try:
            found = self.operators.dependences(node, layouts)
        except NotDecided as error:
            return Mixed(node, f"what it does along the batch could not be tried: {error}")
        except IndicesMixed:
            return Mixed(node, DEPEND)
        infos: list[RowInfo] = [
            at if isinstance(at, AxisLayout) else None if at is Dependence.NONE else Mixed(node, DEPEND) for at in found
        ]
        return infos[0] if isinstance(self.few[node], Tensor) else infos

    def _numbered(self, node: fx.Node, numbers: Sequence[Numbered]) -> NodeRows:
        result = Numbered(node.target in RESHAPING and numbers[0].is_plain)
        return result if isinstance(self.few[node], Tensor) else [result] * len(self.few[node])

    def _without_rows(self, node: fx.Node) -> NodeRows:
        """The info of a value made of weights and the number of rows."""
        if node.target in NUMBERING and not self.sizes.isdisjoint(node.all_input_nodes):
            return Numbered(node.target is aten.arange.default and args_of(node)[0].target is aten.sym_size.int)
        if not self._keeps_rows_independent(node):
            return Numbered()
        if isinstance(self.few[node], Tensor):
            return self._alike(node, self.few[node], self.more[node])
        return [self._alike(node, *pair) for pair in zip(self.few[node], self.more[node], strict=True)]

    def _keeps_rows_independent(self, node: fx.Node) -> bool:
        """True if an operator on values that are the same for all rows treats all rows alike."""
        if node.target in MOVING | TAKE_SIZES:
            return True
        tensors = (n for n in node.all_input_nodes if isinstance(self.few[n], Tensor))
        layouts = {n: AxisLayout(axes[0]) for n in tensors if (axes := self.growth(n))}
        try:
            return not layouts or bool(self.operators.dependences(node, layouts))
        except IndicesMixed:
            return False

    def _alike(self, node: fx.Node, value: Tensor, more: Tensor) -> RowInfo:
        """None if the value is the same for all rows, however many there are."""
        axes = growing_axes(value, more)
        if not axes:
            return None if same(value, more, INITIAL_ROWS) else Mixed(node, COUNTED)
        inner, left = divmod(value.shape[axes[0]], self.count)
        if left or not inner or more.shape[axes[0]] % inner:
            return Numbered()
        for layout in (AxisLayout(axes[0], 1, inner), AxisLayout(axes[0], inner, 1)):
            rows, others = layout.split(value), layout.split(more)
            first = rows.narrow(axes[0] + 1, 0, 1)
            if all(same(first.expand_as(r), r, INITIAL_ROWS) for r in (rows, others)):
                return None
        return Numbered()
