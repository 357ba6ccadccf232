"""Writes through a mask, `y[mask] = 2 * x[mask]`, as a choice between two values of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from rnn_export.export.lift.ir.dependence.axis_table import effects_along, is_pointwise, kept_axis
from rnn_export.export.lift.ir.fx_nodes import arguments_by_name, aten, behind_axes, named_args
from rnn_export.export.lift.ir.node_writer import NodeWriter


def written_by_mask(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """`index_put` with a mask; None where what it writes has another number of entries, or another order."""
    given = named_args(node)
    x, mask = given["self"], _only_mask(given["indices"])
    if mask is None:
        return None
    behind = write.value_of(x).dim() - len(given["indices"]) + 1 - write.value_of(mask).dim()
    values = _of_all_entries(write, given["values"], given["indices"], behind)
    if values is None:
        return None
    for _ in range(behind):
        mask = write.call(aten.unsqueeze.default, mask, -1)
    if given["accumulate"]:
        values = write.call(aten.add.Tensor, x, values)
    return write.call(aten.where.self, mask, values, x)


def _only_mask(indices: Sequence[fx.Node | None]) -> fx.Node | None:
    """The mask, where it alone picks entries, along the last of the axes that are indexed."""
    *before, mask = indices
    is_mask = mask is not None and mask.meta["val"].dtype == torch.bool
    return mask if is_mask and all(index is None for index in before) else None


def _of_all_entries(write: NodeWriter, values: fx.Node, indices: Sequence[Any], behind: int) -> fx.Node | None:
    """`values` of all entries, from those of the entries of a mask with `behind` axes behind it; None if unknown."""
    value = write.value_of(values)
    if not free_unbacked_symbols(value.shape):
        if value.dim() <= behind:
            return values
        return write.call(aten.reshape.default, values, []) if value.numel() == 1 else None
    given = named_args(values) if values.op == "call_function" else {}
    if values.target is aten.index.Tensor:
        return given["self"] if _are_same(given["indices"], indices) else None
    if not is_pointwise(values.target):
        return _row_by_row(write, values, indices)
    found = {n: _of_all_entries(write, n, indices, behind) for n in values.all_input_nodes}
    if None in found.values():
        return None
    args, kwargs = fx.node.map_arg((values.args, values.kwargs), lambda n: found[n])
    return write.call(values.target, *args, **kwargs)


def _row_by_row(write: NodeWriter, values: fx.Node, indices: Sequence[Any]) -> fx.Node | None:
    """`values` of all rows (mask axes, ...), of an operator on the picked ones (rows, ...) that keeps each of them."""
    taken = {n: write.value_of(n) for n in values.all_input_nodes}
    picked = [n for n, value in taken.items() if free_unbacked_symbols(value.shape)]
    if len(indices) > 1 or kept_axis(effects_along(values, taken, dict.fromkeys(picked, 0))) != 0:
        return None
    found = {n: whole for n in picked if (whole := _of_all_entries(write, n, indices, taken[n].dim() - 1)) is not None}
    if len(found) < len(picked):
        return None
    more = write.value_of(indices[0]).dim() - 1
    args, kwargs = arguments_by_name(values, behind_axes(named_args(values), more), found)
    made = write.call(values.target, *args, **kwargs)
    wholes = {n: write.value_of(n) for n in made.all_input_nodes}
    keeps = [kept_axis(effects_along(made, wholes, dict.fromkeys(found.values(), axis))) for axis in range(more + 1)]
    return made if keeps == [*range(more + 1)] else None


def _are_same(indices: Sequence[Any], others: Sequence[Any]) -> bool:
    """True if both name one mask, or one that is made anew of the same values."""
    return len(indices) == len(others) and all(
        a is b or (None not in (a, b) and (a.target, a.args, a.kwargs) == (b.target, b.args, b.kwargs))
        for a, b in zip(indices, others, strict=True)
    )
