"""Rules for operators over ragged axes, functions of the rewriting and the node."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import sympy
import torch
from torch import fx

from rnn_export.export.lift.ir.dependence.axis_table import AXES, Use, effects_of, is_pointwise
from rnn_export.export.lift.ir.fx_nodes import END, aten, overloads
from rnn_export.export.lift.ir.symbolic_integers import Number, is_by_value
from rnn_export.export.lift.rewrite.ragged.ragged_tensors import (
    HIGHEST,
    LOWEST,
    RaggedAxis,
    RaggedTensor,
    Result,
    Rewrite,
    Rule,
    Segment,
    Unruled,
    joined,
    number_of,
    ruled,
)


def by_axis_table(ctx: Rewrite, node: fx.Node) -> Result:
    """An operator whose axes the axis table tells."""
    if not any(isinstance(v, RaggedTensor) and v.ragged_axes for v in _leaves([ctx.of(a) for a in node.args])):
        return ctx.plain(node)
    return _applied(ctx, node.target, node.args, node.kwargs)


def _applied(ctx: Rewrite, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> RaggedTensor | list[Any]:
    """Call an operator on axes that are laid out alike where they meet, and filled where their entries are mixed."""
    named = dict(zip((a.name for a in target._schema.arguments), args, strict=False))
    given = {name: ctx.of(value) for name, value in {**named, **kwargs}.items()}
    if is_pointwise(target):
        given = {k: RaggedTensor(ctx.numbers.node(v), {}) if isinstance(v, Number) else v for k, v in given.items()}
    usual = {a.name: a.default_value for a in target._schema.arguments}
    effects = effects_of(target, usual | given, lambda v: v.shape if isinstance(v, RaggedTensor) else None)
    kept, summed = dict[int, RaggedAxis](), list[RaggedAxis]()
    tensors = [(name, t) for name, v in given.items() for t in _leaves(v) if isinstance(t, RaggedTensor)]
    for name, axis, ragged in ((name, *found) for name, tensor in tensors for found in tensor.ragged_axes.items()):
        effect = effects[name][axis] if name in effects else None
        if effect is None or not (effect.use is Use.KEEPS or target in NOTHING):
            raise Unruled("it does more along that axis than keep its entries")
        if effect.use is Use.REDUCES:
            summed.append(ragged)
        elif effect.to is not None:
            kept.setdefault(effect.to, ragged)
    # Axes of two tensors that are summed meet, as those of a product.
    meet = sum(any(f is not None and f.use is Use.REDUCES for f in along) for along in effects.values()) > 1

    def laid_out(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [laid_out(name, part) for part in value]
        if not isinstance(value, RaggedTensor):
            return value
        for axis, effect in enumerate(effects.get(name, ())):
            own, ragged = value.ragged_axes.get(axis), None
            if effect is not None and effect.use is Use.REDUCES:
                ragged = summed[0] if meet and summed else own
            elif effect is not None and effect.to in kept and (own is not None or value.shape[axis] != 1):
                ragged = kept[effect.to]
            if effect is not None and ragged is not None:
                value = ctx.as_in(value, axis, ragged)
                if effect.use is not Use.KEEPS:
                    value = RaggedTensor(ctx.filled(value, axis, NOTHING[target]), value.ragged_axes)
        return value.node

    if any(isinstance(part, Number) for value in given.values() for part in _leaves(value)):
        raise Unruled("a number that follows from a value")
    taken = {name: laid_out(name, value) for name, value in given.items()}
    made = ctx.call(target, *(taken[name] for name in named), **{name: taken[name] for name in kwargs})
    if not isinstance(made.meta["val"], tuple | list):
        return ctx.made(made, kept)
    return [ctx.made(ctx.call(operator.getitem, made, i), kept) for i in range(len(made.meta["val"]))]


def _leaves(value: Any) -> list[Any]:
    return [leaf for part in value for leaf in _leaves(part)] if isinstance(value, list) else [value]


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


def _mean(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, dims, keep = given["self"], given.get("dim"), given.get("keepdim", False)
    rank = len(value.shape)
    gone = sorted({d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank))})
    counts = [value.ragged_axes[a].count for a in gone if a in value.ragged_axes]
    if not counts:
        return by_axis_table(ctx, node)
    total = _applied(ctx, aten.sum.dim_IntList, (node.args[0], gone, keep), {})
    assert isinstance(total, RaggedTensor)
    mean, others = total.node, math.prod(int(value.shape[a]) for a in gone if a not in value.ragged_axes)
    for divisor in (*map(ctx.numbers.node, counts), *([others] if others != 1 else [])):
        mean = ctx.call(aten.div.Tensor, mean, divisor)
    return RaggedTensor(mean, total.ragged_axes)


def _looked_up(ctx: Rewrite, node: fx.Node) -> Result:
    """Rows of a table; invalid entries get the first one."""
    table, index = (ctx.of(a) for a in node.args[:2])
    if table.ragged_axes:
        raise Unruled("the table")
    numbers = index.node
    for axis in index.ragged_axes:
        numbers = ctx.filled(RaggedTensor(numbers, index.ragged_axes), axis, 0)
    return ctx.made(ctx.call(node.target, table.node, numbers, *node.args[2:], **node.kwargs), index.ragged_axes)


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


# What adds nothing to the entries of an axis that an operator puts together.
NOTHING: Mapping[Any, float | str] = {
    **dict.fromkeys(overloads("sum sum.dim_IntList cumsum any any.dim any.dims mm bmm matmul addmm baddbmm"), 0),
    **dict.fromkeys(overloads("all all.dim all.dims cumprod"), 1),
    **dict.fromkeys(overloads("amax softmax.int _softmax log_softmax.int _log_softmax logsumexp logcumsumexp"), LOWEST),
    **dict.fromkeys(overloads("amin"), HIGHEST),
}
# Of operators that the axis table does not tell all of.
RULES: Mapping[Any, Rule] = {
    **ruled(_cut, "slice.Tensor"),
    **ruled(_joined, "cat"),
    **ruled(_selected, "select.int"),
    **ruled(_put_in, "slice_scatter"),
    **ruled(_entry_put_in, "select_scatter"),
    **ruled(_flipped, "flip"),
    **ruled(_padded, "constant_pad_nd pad"),
    **ruled(_mean, "mean mean.dim"),
    **ruled(_looked_up, "embedding"),
    operator.getitem: _item,
    **ruled(_scalar, "scalar_tensor"),
    **ruled(_reshaped, "reshape"),
    **ruled(_expanded, "expand"),
    **ruled(_new, "full new_zeros new_ones new_full"),
    **ruled(_range, "arange arange.start arange.start_step"),
}


def rule_of(target: Any) -> Rule | None:
    """The rule of an operator; None if it has none."""
    told = target in AXES or is_pointwise(target)
    return RULES.get(target, by_axis_table if told else None)
