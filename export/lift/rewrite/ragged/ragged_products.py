"""Products over ragged axes: invalid entries add nothing to a sum, and stay invalid elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from rnn_export.export.lift.rewrite.ragged.ragged_axes import Room
from rnn_export.export.lift.rewrite.ragged.ragged_tensors import Result, Rewrite, Roomy, Rule, Unruled, ruled


def _product(ctx: Rewrite, node: fx.Node) -> Result:
    """`mm`, `bmm`, and `matmul` of matrices."""
    a, b = (ctx.of(arg) for arg in node.args)
    ranks = (len(a.shape), len(b.shape))
    if min(ranks) < 2:
        raise Unruled("a product with a vector")
    room = a.rooms.get(ranks[0] - 1) or b.rooms.get(ranks[1] - 2)
    if room is not None:
        a, b = ctx.as_in(a, ranks[0] - 1, room), ctx.as_in(b, ranks[1] - 2, room)
        a = Roomy(ctx.filled(a, ranks[0] - 1, 0), a.rooms)
        b = Roomy(ctx.filled(b, ranks[1] - 2, 0), b.rooms)
    a, b, rooms = _beside(ctx, a, b)
    rank = max(ranks)
    if (rows := a.rooms.get(ranks[0] - 2)) is not None:
        rooms[rank - 2] = rows
    if (columns := b.rooms.get(ranks[1] - 1)) is not None:
        rooms[rank - 1] = columns
    return ctx.made(ctx.call(node.target, a.node, b.node), rooms)


def _beside(ctx: Rewrite, a: Roomy, b: Roomy) -> tuple[Roomy, Roomy, dict[int, Room]]:
    """Two batches of matrices with the same ragged axes, and these by axis of their products."""
    rank, rooms = max(len(a.shape), len(b.shape)), dict[int, Room]()
    for value in (a, b):
        more = rank - len(value.shape)
        rooms |= {x + more: room for x, room in value.rooms.items() if x < len(value.shape) - 2}
    sides = []
    for value in (a, b):
        more = rank - len(value.shape)
        for axis, room in rooms.items():
            if axis >= more and (axis - more in value.rooms or value.shape[axis - more] != 1):
                value = ctx.as_in(value, axis - more, room)
        sides.append(value)
    return sides[0], sides[1], rooms


def _scaled_sum(ctx: Rewrite, node: fx.Node) -> Result:
    """`addmm(bias, a, weight)`, a layer over rows."""
    bias, a, weight = (ctx.of(arg) for arg in node.args[:3])
    if bias.rooms or weight.rooms or 1 in a.rooms or node.kwargs:
        raise Unruled("a sum of products over that axis")
    return ctx.made(ctx.call(node.target, bias.node, a.node, weight.node), a.rooms)


PRODUCTS: Mapping[Any, Rule] = {
    **ruled(_product, "mm bmm matmul"),
    **ruled(_scaled_sum, "addmm"),
}
