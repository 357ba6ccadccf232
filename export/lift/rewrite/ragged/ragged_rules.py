"""Rules for operators over ragged axes, functions of the rewriting and the node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import END, aten, overloads
from rnn_export.export.lift.ir.symbolic_integers import Number
from rnn_export.export.lift.rewrite.ragged.ragged_axes import RaggedAxis, joined
from rnn_export.export.lift.rewrite.ragged.ragged_products import PRODUCTS
from rnn_export.export.lift.rewrite.ragged.ragged_reshapes import SHAPES
from rnn_export.export.lift.rewrite.ragged.ragged_tensors import (
    HIGHEST,
    LOWEST,
    RaggedTensor,
    Result,
    Rewrite,
    Rule,
    Unruled,
    number_of,
    ruled,
)


def entry_by_entry(ctx: Rewrite, node: fx.Node) -> Result:
    given: list[Any] = [ctx.of(a) for a in node.args]
    values = [v for v in given if isinstance(v, RaggedTensor)]
    if not any(v.ragged_axes for v in values):
        return ctx.plain(node)
    alike, ragged_axes = ctx.together(values)
    moved = iter(alike)
    args = [
        next(moved).node if isinstance(v, RaggedTensor) else ctx.numbers.node(v) if isinstance(v, Number) else v
        for v in given
    ]
    return ctx.made(ctx.call(node.target, *args, **node.kwargs), ragged_axes)


def _axes_stay(ctx: Rewrite, node: fx.Node) -> Result:
    """An operator that keeps all axes, and mixes entries along the last ones."""
    value, *others = node.args
    taken = ctx.of(value)
    last = len(taken.shape) - 1
    behind = len(node.args[1]) if node.target is aten.layer_norm.default else 1  # type: ignore[arg-type]
    if any(axis > last - behind for axis in taken.ragged_axes) and node.target not in KEEP_ALL:
        raise Unruled("it goes over all entries of that axis")
    return ctx.made(ctx.call(node.target, taken.node, *others, **node.kwargs), taken.ragged_axes)


def _like_another(ctx: Rewrite, node: fx.Node) -> Result:
    value, other = (ctx.of(a) for a in node.args[:2])
    dtype = other.node.meta["val"].dtype
    return ctx.made(ctx.call(aten._to_copy.default, value.node, dtype=dtype), value.ragged_axes)


def _cut(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, axis = given["self"], given["dim"] % len(given["self"].shape)
    ragged, start, end = _bounds(ctx, value, axis, given)
    if axis not in value.ragged_axes and start.known is not None and end.known is not None:
        cut = ctx.call(aten.slice.Tensor, value.node, axis, start.known, end.known, given["step"])
        return ctx.made(cut, value.ragged_axes)
    if given["step"] != 1:
        raise Unruled("its entries are taken in steps")
    count = end - start
    if count.known is not None and count.known >= 0 and ctx.numbers.most(start - end) <= 0:
        at = ctx.call(aten.add.Tensor, ctx.constant(torch.arange(count.known)), ctx.numbers.node(start))
        return ctx.gathered(RaggedTensor(value.node, {**value.ragged_axes, axis: ragged}), axis, at)
    cut_axis, low, high = ctx.ragged_axes.trimmed(ctx.ragged_axes.cut(ragged, start, end))
    node_cut = value.node
    if (low, high) != (0, ragged.size):
        node_cut = ctx.call(aten.slice.Tensor, value.node, axis, low, high)
    return ctx.made(node_cut, {**value.ragged_axes, axis: cut_axis})


def _bounds(
    ctx: Rewrite, value: RaggedTensor, axis: int, given: Mapping[str, Any]
) -> tuple[RaggedAxis, Number, Number]:
    """The ragged axis, and the start and the end of a slice of it."""
    ragged = value.ragged_axes.get(axis) or RaggedAxis.full(int(value.shape[axis]))
    start, end = given["start"], given["end"]
    first = ctx.numbers.place(number_of(start or 0), ragged.count)
    last = ragged.count if end is None or end == END else ctx.numbers.place(number_of(end), ragged.count)
    return ragged, first, last


def _joined(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    values = [v for v in given["tensors"] if v.ragged_axes or v.node.meta["val"].numel() or len(v.shape) > 1]
    rank = max(len(v.shape) for v in values)
    axis = given["dim"] % rank
    along = [v.ragged_axes.get(axis) or RaggedAxis.full(int(v.shape[axis])) for v in values]
    others = [RaggedTensor(v.node, {a: r for a, r in v.ragged_axes.items() if a != axis}) for v in values]
    ragged_axes: dict[int, RaggedAxis] = {}
    for value in others:
        ragged_axes = {**value.ragged_axes, **ragged_axes}
    for a, ragged in ragged_axes.items():
        others = [ctx.as_in(v, a, ragged) for v in others]
    made = ctx.call(aten.cat.default, [v.node for v in others], axis)
    return ctx.made(made, {**ragged_axes, axis: joined(along)})


def _selected(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, axis = given["self"], given["dim"] % len(given["self"].shape)
    ragged_axes = {a - (a > axis): ragged for a, ragged in value.ragged_axes.items() if a != axis}
    if axis not in value.ragged_axes and not isinstance(given["index"], Number):
        return ctx.made(ctx.call(aten.select.int, value.node, axis, given["index"]), ragged_axes)
    ragged = value.ragged_axes.get(axis) or RaggedAxis.full(int(value.shape[axis]))
    at = number_of(given["index"])
    if ctx.numbers.most(at) < 0:
        at = at + ragged.count
    elif ctx.numbers.least(at) < 0:
        raise Unruled("which entry is picked")
    numbered = ctx.call(aten.reshape.default, ctx.numbers.node(at), [1])
    gathered = ctx.gathered(RaggedTensor(value.node, {**value.ragged_axes, axis: ragged}), axis, numbered)
    return ctx.made(ctx.call(aten.squeeze.dim, gathered.node, axis), ragged_axes)


def _put_in(ctx: Rewrite, node: fx.Node) -> Result:
    """A write to a segment of an axis."""
    given = ctx.given(node)
    value, source = given["self"], given["src"]
    rank = len(value.shape)
    axis = given["dim"] % rank
    ragged, start, end = _bounds(ctx, value, axis, given)
    if given["step"] != 1:
        raise Unruled("its entries are taken in steps")
    for a, other in value.ragged_axes.items():
        source = source if a == axis else ctx.as_in(source, a, other)
    written = ctx.ragged_axes.cut(ragged, start, end)
    source = ctx.as_in(source, axis, written)
    mask = ctx.mask(written, axis, rank)
    put = ctx.call(aten.where.self, mask, source.node, value.node)
    return ctx.made(put, value.ragged_axes)


def _entry_put_in(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, source = given["self"], given["src"]
    axis = given["dim"] % len(value.shape)
    if axis in value.ragged_axes or isinstance(given["index"], Number):
        raise Unruled("one entry of that axis is written over")
    for a, ragged in value.ragged_axes.items():
        source = ctx.as_in(source, a - (a > axis), ragged)
    return ctx.made(ctx.call(node.target, value.node, source.node, axis, given["index"]), value.ragged_axes)


def _copied(ctx: Rewrite, node: fx.Node) -> Result:
    """A copy over a value with as many entries."""
    value, source = (ctx.of(a) for a in node.args[:2])
    (value, source), ragged_axes = ctx.together([value, source])
    return ctx.made(ctx.call(aten.copy.default, value.node, source.node), ragged_axes)


def _flipped(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value = given["self"]
    turned = {d % len(value.shape) for d in given["dims"]}
    ragged_axes = {a: ragged.turned() if a in turned else ragged for a, ragged in value.ragged_axes.items()}
    return ctx.made(ctx.call(node.target, value.node, sorted(turned)), ragged_axes)


def _padded(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, pads = given["self"], given["pad"]
    if any(isinstance(n, Number) or n < 0 for n in pads) or given.get("mode", "constant") != "constant":
        raise Unruled("how it is padded")
    ragged_axes = dict(value.ragged_axes)
    for i in range(len(pads) // 2):
        axis, (before, after) = len(value.shape) - 1 - i, pads[2 * i : 2 * i + 2]
        if axis in ragged_axes:
            ragged_axes[axis] = joined([RaggedAxis.full(before), ragged_axes[axis], RaggedAxis.full(after)])
    return ctx.made(ctx.call(aten.constant_pad_nd.default, value.node, pads, given["value"] or 0), ragged_axes)


def _reduced(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, dims, keep = given["self"], given.get("dim"), given.get("keepdim", False)
    rank = len(value.shape)
    gone = {d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank))}
    tensor = value.node
    for axis in [a for a in value.ragged_axes if a in gone]:
        tensor = ctx.filled(RaggedTensor(tensor, value.ragged_axes), axis, NOTHING[node.target])
    ragged_axes = {
        a if keep else a - sum(g < a for g in gone): ragged for a, ragged in value.ragged_axes.items() if a not in gone
    }
    counts = [value.ragged_axes[a].count for a in gone if a in value.ragged_axes]
    if node.target in MEANS and counts:
        total = ctx.call(aten.sum.dim_IntList, tensor, sorted(gone), keep)
        for count in counts:
            total = ctx.call(aten.div.Tensor, total, ctx.numbers.node(count))
        fixed = math.prod(int(value.shape[a]) for a in gone if a not in value.ragged_axes)
        return ctx.made(ctx.call(aten.div.Tensor, total, fixed) if fixed != 1 else total, ragged_axes)
    args = [tensor if a is node.args[0] else a for a in node.args]
    return ctx.made(ctx.call(node.target, *args, **node.kwargs), ragged_axes)


def _along(ctx: Rewrite, node: fx.Node) -> Result:
    """An operator along an axis, such as cumsum or softmax, with a result for each entry."""
    value, at = ctx.of(node.args[0]), node.args[1]
    assert isinstance(at, int)
    axis = at % len(value.shape)
    tensor = value.node
    if axis in value.ragged_axes:
        tensor = ctx.filled(value, axis, NOTHING[node.target])
    return ctx.made(ctx.call(node.target, tensor, *node.args[1:], **node.kwargs), value.ragged_axes)


def _looked_up(ctx: Rewrite, node: fx.Node) -> Result:
    """Rows of a table; invalid entries get the first one."""
    table, index = (ctx.of(a) for a in node.args[:2])
    if table.ragged_axes:
        raise Unruled("the table")
    numbers = index.node
    for axis in index.ragged_axes:
        numbers = ctx.filled(RaggedTensor(numbers, index.ragged_axes), axis, 0)
    return ctx.made(ctx.call(node.target, table.node, numbers, *node.args[2:], **node.kwargs), index.ragged_axes)


MEANS = overloads("mean mean.dim")
NOTHING: Mapping[Any, float | str] = {
    **dict.fromkeys(overloads("sum sum.dim_IntList cumsum any any.dim any.dims mean mean.dim"), 0),
    **dict.fromkeys(overloads("all all.dim all.dims cumprod"), 1),
    **dict.fromkeys(overloads("amax softmax.int _softmax log_softmax.int _log_softmax logsumexp logcumsumexp"), LOWEST),
    **dict.fromkeys(overloads("amin"), HIGHEST),
}
KEEP_ALL = overloads(
    "clone _to_copy dropout alias detach contiguous to.dtype zeros_like ones_like full_like empty_like"
)


RULES: Mapping[Any, Rule] = {
    **ruled(entry_by_entry, "masked_fill.Scalar masked_fill.Tensor where.self fill.Scalar fill.Tensor"),
    **dict.fromkeys(KEEP_ALL, _axes_stay),
    **ruled(_axes_stay, "layer_norm linear glu"),
    **ruled(_like_another, "type_as"),
    **ruled(_cut, "slice.Tensor"),
    **ruled(_joined, "cat"),
    **ruled(_selected, "select.int"),
    **ruled(_put_in, "slice_scatter"),
    **ruled(_entry_put_in, "select_scatter"),
    **ruled(_copied, "copy"),
    **ruled(_flipped, "flip"),
    **ruled(_padded, "constant_pad_nd pad"),
    **ruled(
        _reduced, "sum sum.dim_IntList mean mean.dim amax amin any any.dim any.dims all all.dim all.dims logsumexp"
    ),
    **ruled(_along, "softmax.int _softmax log_softmax.int _log_softmax cumsum cumprod logcumsumexp"),
    **ruled(_looked_up, "embedding"),
    **PRODUCTS,
    **SHAPES,
}
