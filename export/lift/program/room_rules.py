"""What operators do over rooms: a function for each, of the rewriting and the node."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import sympy
import torch
from torch import fx

from rnn_export.export.lift.program.fx import END, aten, overloads
from rnn_export.export.lift.program.room_products import PRODUCTS
from rnn_export.export.lift.program.room_values import HIGHEST, LOWEST, Result, Rewrite, Roomy, Unruled
from rnn_export.export.lift.program.rooms import Piece, Room, joined
from rnn_export.export.lift.program.value_numbers import Number, is_by_value

Rule = Callable[[Rewrite, fx.Node], Result]


def _entry_by_entry(ctx: Rewrite, node: fx.Node) -> Result:
    given: list[Any] = [ctx._given(a) for a in node.args]
    values = [v for v in given if isinstance(v, Roomy)]
    if not any(v.rooms for v in values):
        return ctx.plain(node)
    alike, rooms = ctx.together(values)
    moved = iter(alike)
    args = [
        next(moved).node if isinstance(v, Roomy) else ctx.numbers.node(v) if isinstance(v, Number) else v for v in given
    ]
    return ctx.made(ctx.call(node.target, *args, **node.kwargs), rooms)


def _axes_stay(ctx: Rewrite, node: fx.Node) -> Result:
    """What keeps all axes, and mixes entries along the last one at most."""
    value, *others = node.args
    taken = ctx._given(value)
    last = len(taken.shape) - 1
    behind = len(node.args[1]) if node.target is aten.layer_norm.default else 1  # type: ignore[arg-type]
    if any(axis > last - behind for axis in taken.rooms) and node.target not in KEEP_ALL:
        raise Unruled("it goes over all entries of that axis")
    return ctx.made(ctx.call(node.target, taken.node, *others, **node.kwargs), taken.rooms)


def _like_another(ctx: Rewrite, node: fx.Node) -> Result:
    value, other = (ctx._given(a) for a in node.args[:2])
    dtype = other.node.meta["val"].dtype
    return ctx.made(ctx.call(aten._to_copy.default, value.node, dtype=dtype), value.rooms)


def _permuted(ctx: Rewrite, node: fx.Node) -> Result:
    value = ctx._given(node.args[0])
    rank = len(value.shape)
    order = list(range(rank))
    if node.target is aten.permute.default:
        dims: Any = node.args[1]
        order = [d % rank for d in dims]
    elif rank > 1:
        a, b = (d % rank for d in (node.args[1:] if node.target is aten.transpose.int else (0, 1)))  # type: ignore[operator]
        order[a], order[b] = order[b], order[a]
    rooms = {order.index(axis): room for axis, room in value.rooms.items()}
    return ctx.made(ctx.call(aten.permute.default, value.node, order), rooms)


def _unsqueezed(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value = given["self"]
    at = given["dim"] % (len(value.shape) + 1)
    rooms = {axis + (axis >= at): room for axis, room in value.rooms.items()}
    return ctx.made(ctx.call(node.target, value.node, at), rooms)


def _squeezed(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, dims = given["self"], given["dim"]
    asked = {d % len(value.shape) for d in ([dims] if isinstance(dims, int) else dims)}
    gone = [a for a in asked if a not in value.rooms and value.shape[a] == 1]
    if any(a in value.rooms for a in asked):
        raise Unruled("whether that axis is one entry long its value says")
    rooms = {axis - sum(g < axis for g in gone): room for axis, room in value.rooms.items()}
    return ctx.made(ctx.call(aten.squeeze.dims, value.node, sorted(gone)), rooms)


def _cut(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, axis = given["self"], given["dim"] % len(given["self"].shape)
    room, start, end = _bounds(ctx, value, axis, given)
    if axis not in value.rooms and start.known is not None and end.known is not None:
        cut = ctx.call(aten.slice.Tensor, value.node, axis, start.known, end.known, given["step"])
        return ctx.made(cut, value.rooms)
    if given["step"] != 1:
        raise Unruled("its entries are taken in steps")
    count = end - start
    if count.known is not None and 0 <= count.known and ctx.numbers.most(start - end) <= 0:
        at = ctx.call(aten.add.Tensor, ctx.constant(torch.arange(count.known)), ctx.numbers.node(start))
        return ctx.gathered(Roomy(value.node, {**value.rooms, axis: room}), axis, at)
    cut_room, low, high = ctx.rooms.trimmed(ctx.rooms.cut(room, start, end))
    node_cut = value.node
    if (low, high) != (0, room.size):
        node_cut = ctx.call(aten.slice.Tensor, value.node, axis, low, high)
    return ctx.made(node_cut, {**value.rooms, axis: cut_room})


def _bounds(ctx: Rewrite, value: Roomy, axis: int, given: Mapping[str, Any]) -> tuple[Room, Number, Number]:
    """The room of an axis, and from which to which of its entries a slice goes."""
    room = value.rooms.get(axis) or Room.full(int(value.shape[axis]))
    start, end = given["start"], given["end"]
    first = ctx.numbers.place(_number(start or 0), room.count)
    last = room.count if end is None or end == END else ctx.numbers.place(_number(end), room.count)
    return room, first, last


def _number(value: Any) -> Number:
    if isinstance(value, Number):
        return value
    if type(value) is not int:
        raise Unruled("an end of a slice is of another kind")
    return Number(value)


def _joined(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    values = [v for v in given["tensors"] if v.rooms or v.node.meta["val"].numel() or len(v.shape) > 1]
    rank = max(len(v.shape) for v in values)
    axis = given["dim"] % rank
    along = [v.rooms.get(axis) or Room.full(int(v.shape[axis])) for v in values]
    others = [Roomy(v.node, {a: r for a, r in v.rooms.items() if a != axis}) for v in values]
    rooms: dict[int, Room] = {}
    for value in others:
        rooms = {**value.rooms, **rooms}
    for a, room in rooms.items():
        others = [ctx.as_in(v, a, room) for v in others]
    made = ctx.call(aten.cat.default, [v.node for v in others], axis)
    return ctx.made(made, {**rooms, axis: joined(along)})


def _stacked(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    alike, rooms = ctx.together(given["tensors"])
    at = given["dim"] % (len(alike[0].shape) + 1)
    made = ctx.call(aten.stack.default, [v.node for v in alike], at)
    return ctx.made(made, {axis + (axis >= at): room for axis, room in rooms.items()})


def _split(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value = given["self"]
    axis = given["dim"] % len(value.shape)
    if axis in value.rooms:
        raise Unruled("it is taken apart along that axis")
    taken = [value.node, *node.args[1:]]
    parts = ctx.call(node.target, *taken)
    rooms = {a - (node.target is aten.unbind.int and a > axis): room for a, room in value.rooms.items()}
    return [
        Roomy(ctx.call(operator.getitem, parts, i), rooms) for i in range(len(parts.meta["val"]))
    ]


def _item(ctx: Rewrite, node: fx.Node) -> Result:
    of, at = node.args
    parts: Any = ctx.values[of]  # type: ignore[index]
    part: Result = parts[at]
    return part


def _selected(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, axis = given["self"], given["dim"] % len(given["self"].shape)
    rooms = {a - (a > axis): room for a, room in value.rooms.items() if a != axis}
    if axis not in value.rooms and not isinstance(given["index"], Number):
        return ctx.made(ctx.call(aten.select.int, value.node, axis, given["index"]), rooms)
    room = value.rooms.get(axis) or Room.full(int(value.shape[axis]))
    at = _number(given["index"])
    if ctx.numbers.most(at) < 0:
        at = at + room.count
    elif ctx.numbers.least(at) < 0:
        raise Unruled("which entry is picked")
    numbered = ctx.call(aten.reshape.default, ctx.numbers.node(at), [1])
    picked = ctx.gathered(Roomy(value.node, {**value.rooms, axis: room}), axis, numbered)
    return ctx.made(ctx.call(aten.squeeze.dim, picked.node, axis), rooms)


def _put_in(ctx: Rewrite, node: fx.Node) -> Result:
    """A piece of an axis written over."""
    given = ctx.given(node)
    value, source = given["self"], given["src"]
    rank = len(value.shape)
    axis = given["dim"] % rank
    room, start, end = _bounds(ctx, value, axis, given)
    if given["step"] != 1:
        raise Unruled("its entries are taken in steps")
    for a, other in value.rooms.items():
        source = source if a == axis else ctx.as_in(source, a, other)
    written = ctx.rooms.cut(room, start, end)
    source = ctx.as_in(source, axis, written)
    mask = ctx.mask(written, axis, rank)
    if value.node.meta["val"].dtype == torch.bool:
        kept = ctx.call(aten.logical_and.default, value.node, ctx.call(aten.logical_not.default, mask))
        put = ctx.call(aten.logical_or.default, kept, ctx.call(aten.logical_and.default, source.node, mask))
    else:
        put = ctx.call(aten.where.self, mask, source.node, value.node)
    return ctx.made(put, value.rooms)


def _entry_put_in(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, source = given["self"], given["src"]
    axis = given["dim"] % len(value.shape)
    if axis in value.rooms or isinstance(given["index"], Number):
        raise Unruled("one entry of that axis is written over")
    for a, room in value.rooms.items():
        source = ctx.as_in(source, a - (a > axis), room)
    return ctx.made(ctx.call(node.target, value.node, source.node, axis, given["index"]), value.rooms)


def _copied(ctx: Rewrite, node: fx.Node) -> Result:
    """One value written over another one of as many entries."""
    value, source = (ctx._given(a) for a in node.args[:2])
    (value, source), rooms = ctx.together([value, source])
    return ctx.made(ctx.call(aten.copy.default, value.node, source.node), rooms)


def _flipped(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value = given["self"]
    turned = {d % len(value.shape) for d in given["dims"]}
    rooms = {a: room.turned() if a in turned else room for a, room in value.rooms.items()}
    return ctx.made(ctx.call(node.target, value.node, sorted(turned)), rooms)


def _padded(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, pads = given["self"], given["pad"]
    if any(isinstance(n, Number) or n < 0 for n in pads) or given.get("mode", "constant") != "constant":
        raise Unruled("how it is padded")
    rooms = dict(value.rooms)
    for i in range(len(pads) // 2):
        axis, (before, after) = len(value.shape) - 1 - i, pads[2 * i : 2 * i + 2]
        if axis in rooms:
            rooms[axis] = joined([Room.full(before), rooms[axis], Room.full(after)])
    return ctx.made(ctx.call(aten.constant_pad_nd.default, value.node, pads, given["value"] or 0), rooms)


def _reshaped(ctx: Rewrite, node: fx.Node) -> Result:
    """Axes put together or taken apart; of one with a room alone, with whole axes behind it."""
    value = ctx._given(node.args[0])
    wanted: list[Any] = list(node.meta["val"].shape)
    here, there = sorted(value.rooms), [i for i, size in enumerate(wanted) if is_by_value(size)]
    if len(here) != len(there):
        raise Unruled("axes are put together")
    before = [_product(value.shape[a + 1 : b]) for a, b in pairwise([-1, *here, len(value.shape)])]
    after = [_product(wanted[a + 1 : b]) for a, b in pairwise([-1, *there, len(wanted)])]
    behind, new_behind = before.pop(), after.pop()
    if before != after:
        raise Unruled("axes are put together")
    rooms: dict[int, Room] = {at: value.rooms[axis] for axis, at in zip(here, there, strict=True)}
    if here and behind != new_behind:
        last = _with_behind(rooms[there[-1]], behind, new_behind) if len(here) == 1 else None
        if last is None:
            raise Unruled("axes are put together")
        rooms[there[-1]] = last
    sizes = [rooms[i].size if i in rooms else size for i, size in enumerate(wanted)]
    return ctx.made(ctx.call(aten.reshape.default, value.node, ctx.sizes(node, sizes)), rooms)


def _with_behind(room: Room, before: sympy.Expr, after: sympy.Expr) -> Room | None:
    """A room where as many entries were behind each of its own, and other ones are now."""
    if not (before.is_Integer and after.is_Integer):
        return None
    more, less = int(before), int(after)
    return room.times(more // less) if more % less == 0 else room.parted(less // more) if less % more == 0 else None


def _product(sizes: Sequence[Any]) -> sympy.Expr:
    return sympy.prod([n.node.expr if isinstance(n, torch.SymInt) else sympy.Integer(n) for n in sizes])


def _expanded(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, sizes = given["self"], list(given["size"])
    less = len(sizes) - len(value.shape)
    rooms: dict[int, Room] = {}
    for axis, size in enumerate(sizes):
        own = value.rooms.get(axis - less)
        if own is not None:
            rooms[axis], sizes[axis] = own, own.size
        elif isinstance(size, Number):
            rooms[axis] = _new_room(ctx, size)
            sizes[axis] = rooms[axis].size
    return ctx.made(ctx.call(node.target, value.node, sizes), rooms)


def _new_room(ctx: Rewrite, size: Number) -> Room:
    most = ctx.numbers.most(size)
    if most == float("inf"):
        raise Unruled("how many entries there may be has no bound that was seen: min(n, N) is one")
    return Room((Piece(int(most), Number(), ctx.numbers.maximum(size, Number())),))


def _new(ctx: Rewrite, node: fx.Node) -> Result:
    """A tensor of one number."""
    at = 1 if "new_" in str(node.target) else 0
    sizes, rooms = list(ctx._given(node.args[at])), {}
    for axis, size in enumerate(sizes):
        if isinstance(size, Number):
            rooms[axis] = _new_room(ctx, size)
            sizes[axis] = rooms[axis].size
    others = [n.node if isinstance(n, Roomy) else n for n in map(ctx._given, node.args[at + 1 :])]
    if any(isinstance(n, Number) for n in others):
        raise Unruled("what it is filled with")
    before = [ctx._given(n).node for n in node.args[:at]]
    return ctx.made(ctx.call(node.target, *before, sizes, *others, **node.kwargs), rooms)


def _range(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    start, end, step = _number(given.get("start", 0)), _number(given["end"]), given.get("step", 1)
    if step != 1:
        raise Unruled("it counts in steps")
    room = _new_room(ctx, end - start)
    dtype = node.meta["val"].dtype
    counted = ctx.constant(torch.arange(room.size, dtype=dtype))
    if start != Number():
        counted = ctx.call(aten.add.Tensor, counted, ctx.numbers.node(start))
        if counted.meta["val"].dtype != dtype:
            counted = ctx.call(aten._to_copy.default, counted, dtype=dtype)
    return ctx.made(counted, {0: room})


def _reduced(ctx: Rewrite, node: fx.Node) -> Result:
    given = ctx.given(node)
    value, dims, keep = given["self"], given.get("dim"), given.get("keepdim", False)
    rank = len(value.shape)
    gone = {d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank))}
    tensor = value.node
    for axis in [a for a in value.rooms if a in gone]:
        tensor = ctx.filled(Roomy(tensor, value.rooms), axis, NOTHING[node.target])
    rooms = {
        a if keep else a - sum(g < a for g in gone): room for a, room in value.rooms.items() if a not in gone
    }
    counts = [value.rooms[a].count for a in gone if a in value.rooms]
    if node.target in MEANS and counts:
        total = ctx.call(aten.sum.dim_IntList, tensor, sorted(gone), keep)
        for count in counts:
            total = ctx.call(aten.div.Tensor, total, ctx.numbers.node(count))
        fixed = math.prod(int(value.shape[a]) for a in gone if a not in value.rooms)
        return ctx.made(ctx.call(aten.div.Tensor, total, fixed) if fixed != 1 else total, rooms)
    args = [tensor if a is node.args[0] else a for a in node.args]
    return ctx.made(ctx.call(node.target, *args, **node.kwargs), rooms)


def _along(ctx: Rewrite, node: fx.Node) -> Result:
    """Along an axis, in the order of its entries or over all of them, each result of one entry."""
    value, dim = ctx._given(node.args[0]), node.args[1]
    axis = dim % len(value.shape)  # type: ignore[operator]
    tensor = value.node
    if axis in value.rooms:
        tensor = ctx.filled(value, axis, NOTHING[node.target])
    return ctx.made(ctx.call(node.target, tensor, *node.args[1:], **node.kwargs), value.rooms)


def _looked_up(ctx: Rewrite, node: fx.Node) -> Result:
    """Rows of a table; where nothing is there, the first one."""
    table, index = (ctx._given(a) for a in node.args[:2])
    if table.rooms:
        raise Unruled("the table")
    numbers = index.node
    for axis in index.rooms:
        numbers = ctx.filled(Roomy(numbers, index.rooms), axis, 0)
    return ctx.made(ctx.call(node.target, table.node, numbers, *node.args[2:], **node.kwargs), index.rooms)


MEANS = overloads("mean mean.dim")
NOTHING: Mapping[Any, float | str] = {
    **dict.fromkeys(overloads("sum sum.dim_IntList cumsum any any.dim any.dims mean mean.dim"), 0),
    **dict.fromkeys(overloads("all all.dim all.dims cumprod"), 1),
    **dict.fromkeys(overloads("amax softmax.int _softmax log_softmax.int _log_softmax logsumexp logcumsumexp"), LOWEST),
    **dict.fromkeys(overloads("amin"), HIGHEST),
}
KEEP_ALL = overloads("clone _to_copy dropout alias detach contiguous to.dtype zeros_like ones_like full_like empty_like")


def _by(rule: Rule, names: str) -> dict[Any, Rule]:
    return dict.fromkeys(overloads(names), rule)


RULES: Mapping[Any, Rule] = {
    "pointwise": _entry_by_entry,
    operator.getitem: _item,
    **_by(_entry_by_entry, "masked_fill.Scalar masked_fill.Tensor where.self fill.Scalar fill.Tensor"),
    **dict.fromkeys(KEEP_ALL, _axes_stay),
    **_by(_axes_stay, "layer_norm linear glu"),
    **_by(_like_another, "type_as"),
    **_by(_permuted, "permute transpose.int t"),
    **_by(_unsqueezed, "unsqueeze"),
    **_by(_squeezed, "squeeze.dim squeeze.dims"),
    **_by(_cut, "slice.Tensor"),
    **_by(_joined, "cat"),
    **_by(_stacked, "stack"),
    **_by(_split, "split.Tensor split_with_sizes unbind.int chunk"),
    **_by(_selected, "select.int"),
    **_by(_put_in, "slice_scatter"),
    **_by(_entry_put_in, "select_scatter"),
    **_by(_copied, "copy"),
    **_by(_flipped, "flip"),
    **_by(_padded, "constant_pad_nd pad"),
    **_by(_reshaped, "view reshape _unsafe_view"),
    **_by(_expanded, "expand"),
    **_by(_new, "zeros ones full new_zeros new_ones new_full empty.memory_format"),
    **_by(_range, "arange arange.start arange.start_step"),
    **_by(_reduced, "sum sum.dim_IntList mean mean.dim amax amin any any.dim any.dims all all.dim all.dims logsumexp"),
    **_by(_along, "softmax.int _softmax log_softmax.int _log_softmax cumsum cumprod logcumsumexp"),
    **_by(_looked_up, "embedding"),
    **PRODUCTS,
}
