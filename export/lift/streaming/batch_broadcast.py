"""Gives a batch axis to values made of the length alone: overlap-added windows, the counted share of a filter.

At both ends of a sequence such a value differs from those between, and each stream has its own ends. So it is computed
for each row of the batch, from frames that are all alike on:

    y (B, S) / fold(window.expand(1, T, N))        ones (B, 1, 1, 1) * window.expand(1, T, N), folded row by row
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.compare import INITIAL_ROWS, LOCALITY, same
from rnn_export.export.lift.ir.dependence.axis_table import is_pointwise
from rnn_export.export.lift.ir.dependence.cell_layout import growing_axes
from rnn_export.export.lift.ir.fx_nodes import (
    arguments_by_name,
    aten,
    behind_axes,
    depends_on,
    named_args,
    placeholders,
)
from rnn_export.export.lift.streaming.position_axes import MetRows
from rnn_export.export.lift.streaming.recorded_runs import RecordedRuns

# Arguments that are sizes of the result.
SIZES = ("size", "shape")


def give_own_rows(module: fx.GraphModule, runs: RecordedRuns, rows_in: Sequence[int] | None) -> bool:
    """Rewrite `module` in place; True if any value needed rows.

    `rows_in` has the axis of the rows in each input; None for a single stream, which needs none.
    """
    if rows_in is None:
        return False
    given = _OwnRows(module.graph, runs, rows_in)
    met = [given.meet(node) for node in list(module.graph.nodes) if node.op == "call_function"]
    if given.made:
        # What was made of a part of a value that cannot be made goes too.
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.recompile()
    return any(met)


class _OwnRows:
    """The values made of the length, each with the rows of the batch in an axis in front."""

    def __init__(self, graph: fx.Graph, runs: RecordedRuns, rows_in: Sequence[int]) -> None:
        self.graph, self.runs, self.met = graph, runs, MetRows(graph, runs, rows_in)
        self.rows_in = rows_in[0]
        self.moving = depends_on(graph, placeholders(graph))
        self.made: dict[fx.Node, fx.Node | None] = {}

    def meet(self, node: fx.Node) -> bool:
        """Let a pointwise operator on rows take its arguments with rows; True if it does now."""
        if node not in self.moving or not is_pointwise(node.target) or not isinstance(self.runs.base[node], Tensor):
            return False
        batch, rank = self.met.axis(node), self.runs.base[node].dim()
        if batch is None or self.runs.base[node].shape[batch] != self.met.count:
            return False
        found = False
        for value in [n for n in node.all_input_nodes if self._needs_rows(n)]:
            shape = self.runs.base[value].shape
            own = batch - (rank - len(shape))
            made = self._of(value) if own < 0 or shape[own] == 1 else None
            if made is not None:
                made = self._of_rank(made, value, rank, node)
                node.replace_input_with(value, self._laid_out(made, node, batch, rank))
                found = True
        return found

    def _needs_rows(self, node: fx.Node) -> bool:
        """True if a value without rows differs at the ends of a sequence."""
        axis = self._time(node)
        if axis is None or self._is_alike(node, axis):
            return False
        here, there = self.runs.base[node], self.runs.longer[node]
        return not same(there.narrow(axis, 0, here.shape[axis]), here, INITIAL_ROWS)

    def _time(self, node: fx.Node) -> int | None:
        """The time axis of a floating-point value of the length alone; else None."""
        value = self.runs.base.get(node)
        if node in self.moving or not isinstance(value, Tensor) or not value.is_floating_point():
            return None
        axes = growing_axes(value, self.runs.longer[node])
        return axes[0] if len(axes) == 1 and self.met.axis(node) is None else None

    def _is_alike(self, node: fx.Node, axis: int) -> bool:
        value = self.runs.longer[node]
        return same(value, value.narrow(axis, 0, 1).expand_as(value))

    def _of(self, node: fx.Node) -> fx.Node | None:
        """(B, ...) of a value; None if it cannot be made."""
        if node not in self.made:
            self.made[node] = self._made(node)
        return self.made[node]

    def _made(self, node: fx.Node) -> fx.Node | None:
        axis, rank = self._time(node), self.runs.base[node].dim()
        if axis is None:
            return None
        if self._is_alike(node, axis):
            after, dtype = node.next, self.runs.base[node].dtype
            ones = self._insert(after, aten.full.default, [self._rows(after), *[1] * rank], 1, dtype=dtype)
            return self._insert(after, aten.mul.Tensor, ones, node)
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            return None
        given = named_args(node)
        timed = [n for n in node.all_input_nodes if self._time(n) is not None]
        parts = {n: new for n in timed if (new := self._of(n)) is not None}
        if not parts or len(parts) < len(timed):
            return None
        if is_pointwise(node.target):
            parts = {n: self._of_rank(new, n, rank, node) for n, new in parts.items()}
            return self._called(node, given, parts)
        behind = {k: [2, *v] if k in SIZES else v for k, v in behind_axes(given, 1).items()}
        if self._takes_rows(node, behind, parts, 0):
            rows = {k: [self._rows(node), *v] if k in SIZES else behind[k] for k, v in given.items()}
            return self._called(node, rows, parts)
        # A filter over a batch in front, here 1 long, takes the rows in its place.
        if all(self.runs.base[n].shape[:1] == (1,) for n in (node, *parts)) and self._takes_rows(node, given, parts, 1):
            parts = {n: self._insert(node, aten.squeeze.dim, new, 1) for n, new in parts.items()}
            return self._insert(node, aten.unsqueeze.default, self._called(node, given, parts), 1)
        return None

    def _takes_rows(self, node: fx.Node, given: dict[str, Any], parts: Collection[fx.Node], merged: int) -> bool:
        """True if `node`, with `given` arguments, makes of two rows of `parts` what it makes of each of them.

        The rows are an axis in front, `merged` with that many behind it.
        """
        target: Any = node.target

        def called(given: dict[str, Any], row: Callable[[Tensor], Tensor]) -> Tensor:
            values = {n: self.runs.base[n] for n in node.all_input_nodes}
            args, kwargs = arguments_by_name(node, given, {n: row(v) if n in parts else v for n, v in values.items()})
            made: Tensor = target(*args, **kwargs)
            return made

        try:
            alone = torch.stack([called(named_args(node), partial(torch.add, other=n)) for n in (0, 1)])
            both = called(given, lambda value: torch.stack([value, value + 1]).flatten(0, merged))
        except Exception:  # operators raise many kinds for other sizes
            return False
        return same(both, alone.flatten(0, merged), LOCALITY)

    def _called(self, node: fx.Node, given: dict[str, Any], parts: dict[fx.Node, fx.Node]) -> fx.Node:
        """A copy of `node` that takes `parts`."""
        args, kwargs = arguments_by_name(node, given, parts)
        new = self._insert(node, node.target, *args, **kwargs)
        new.meta = {k: v for k, v in node.meta.items() if k != "val"}
        return new

    def _rows(self, before: fx.Node) -> fx.Node:
        return self._insert(before, aten.sym_size.int, placeholders(self.graph)[0], self.rows_in)

    def _of_rank(self, made: fx.Node, value: fx.Node, rank: int, before: fx.Node) -> fx.Node:
        """(B, 1, ..., ...) of `rank` axes beside the rows."""
        for _ in range(rank - self.runs.base[value].dim()):
            made = self._insert(before, aten.unsqueeze.default, made, 1)
        return made

    def _laid_out(self, made: fx.Node, node: fx.Node, batch: int, rank: int) -> fx.Node:
        """The rows in axis `batch` of a value of `rank` axes."""
        made = self._insert(node, aten.squeeze.dim, made, batch + 1)
        order = [*range(1, batch + 1), 0, *range(batch + 1, rank)]
        return made if batch == 0 else self._insert(node, aten.permute.default, made, order)

    def _insert(self, before: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        with self.graph.inserting_before(before):
            return self.graph.call_function(target, args, kwargs)
