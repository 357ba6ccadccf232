"""Rules for permuted and reshaped ragged axes, and for new tensors."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import sympy
import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.ir.symbolic_integers import Number, is_by_value
from rnn_export.export.lift.rewrite.ragged.ragged_axes import RaggedAxis, Segment
from rnn_export.export.lift.rewrite.ragged.ragged_tensors import (
    RaggedTensor,
    Result,
    Rewrite,
    Rule,
    Unruled,
    number_of,
    ruled,
)


def _reshaped(ctx: Rewrite, node: fx.Node) -> Result:
    """A reshape that merges or splits axes; a ragged one alone, with whole axes behind it."""
    value = ctx.of(node.args[0])
    wanted: list[Any] = list(node.meta["val"].shape)
    here, there = sorted(value.ragged_axes), [i for i, size in enumerate(wanted) if is_by_value(size)]
    if len(here) != len(there):
        raise Unruled("axes are put together")
    before = [_product(value.shape[a + 1 : b]) for a, b in pairwise([-1, *here, len(value.shape)])]
    after = [_product(wanted[a + 1 : b]) for a, b in pairwise([-1, *there, len(wanted)])]
    behind, new_behind = before.pop(), after.pop()
    if before != after:
        raise Unruled("axes are put together")
    ragged_axes: dict[int, RaggedAxis] = {at: value.ragged_axes[axis] for axis, at in zip(here, there, strict=True)}
    if here and behind != new_behind:
        last = _with_behind(ragged_axes[there[-1]], behind, new_behind) if len(here) == 1 else None
        if last is None:
            raise Unruled("axes are put together")
        ragged_axes[there[-1]] = last
    sizes = [ragged_axes[i].size if i in ragged_axes else size for i, size in enumerate(wanted)]
    return ctx.made(ctx.call(aten.reshape.default, value.node, ctx.sizes(node, sizes)), ragged_axes)


def _with_behind(ragged: RaggedAxis, before: sympy.Expr, after: sympy.Expr) -> RaggedAxis | None:
    """A ragged axis with `before` entries behind each of its own, and `after` in the result; or None."""
    if not (before.is_Integer and after.is_Integer):
        return None
    more, less = int(before), int(after)
    return ragged.times(more // less) if more % less == 0 else ragged.parted(less // more) if less % more == 0 else None


def _product(sizes: Sequence[Any]) -> sympy.Expr:
    return sympy.prod([n.node.expr if isinstance(n, torch.SymInt) else sympy.Integer(n) for n in sizes])


def _expanded(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, sizes = given["self"], list(given["size"])
    less = len(sizes) - len(value.shape)
    ragged_axes: dict[int, RaggedAxis] = {}
    for axis, size in enumerate(sizes):
        own = value.ragged_axes.get(axis - less)
        if own is not None:
            ragged_axes[axis], sizes[axis] = own, own.size
        elif isinstance(size, Number):
            ragged_axes[axis] = _new_ragged_axis(ctx, size)
            sizes[axis] = ragged_axes[axis].size
    return ctx.made(ctx.call(node.target, value.node, sizes), ragged_axes)


def _new_ragged_axis(ctx: Rewrite, size: Number) -> RaggedAxis:
    most = ctx.numbers.most(size)
    if most == float("inf"):
        raise Unruled("how many entries there may be has no bound that was seen: min(n, N) is one")
    return RaggedAxis((Segment(int(most), Number(), ctx.numbers.maximum(size, Number())),))


def _new(ctx: Rewrite, node: fx.Node) -> Result:
    """A tensor filled with one number."""
    at = 1 if "new_" in str(node.target) else 0
    sizes, ragged_axes = list(ctx.of(node.args[at])), {}
    for axis, size in enumerate(sizes):
        if isinstance(size, Number):
            ragged_axes[axis] = _new_ragged_axis(ctx, size)
            sizes[axis] = ragged_axes[axis].size
    others = [n.node if isinstance(n, RaggedTensor) else n for n in map(ctx.of, node.args[at + 1 :])]
    if any(isinstance(n, Number) for n in others):
        raise Unruled("what it is filled with")
    before = [ctx.of(n).node for n in node.args[:at]]
    return ctx.made(ctx.call(node.target, *before, sizes, *others, **node.kwargs), ragged_axes)


def _range(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    start, end, step = number_of(given.get("start", 0)), number_of(given["end"]), given.get("step", 1)
    if step != 1:
        raise Unruled("it counts in steps")
    ragged = _new_ragged_axis(ctx, end - start)
    dtype = node.meta["val"].dtype
    counted = ctx.constant(torch.arange(ragged.size, dtype=dtype))
    if start != Number():
        counted = ctx.call(aten.add.Tensor, counted, ctx.numbers.node(start))
        if counted.meta["val"].dtype != dtype:
            counted = ctx.call(aten._to_copy.default, counted, dtype=dtype)
    return ctx.made(counted, {0: ragged})


def _item(ctx: Rewrite, node: fx.Node) -> Result:
    of, at = node.args
    parts: Any = ctx.values[of]  # type: ignore[index]
    part: Result = parts[at]
    return part


def _scalar(ctx: Rewrite, node: fx.Node) -> Result:
    """A Python number as a tensor."""
    number = ctx.of(node.args[0])
    if not isinstance(number, Number):
        return ctx.plain(node)
    return ctx.call(aten._to_copy.default, ctx.numbers.node(number), dtype=node.meta["val"].dtype)


SHAPES: Mapping[Any, Rule] = {
    operator.getitem: _item,
    **ruled(_scalar, "scalar_tensor"),
    **ruled(_reshaped, "reshape"),
    **ruled(_expanded, "expand"),
    **ruled(_new, "full new_zeros new_ones new_full"),
    **ruled(_range, "arange arange.start arange.start_step"),
}
