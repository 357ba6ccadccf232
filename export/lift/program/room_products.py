"""Products over rooms: what is not there counts nothing where it is summed over, and is passed by elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.program.fx import aten
from rnn_export.export.lift.program.room_values import LOWEST, Result, Rewrite, Roomy, Rule, Unruled, ruled
from rnn_export.export.lift.program.rooms import Room


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
    """Two batches of matrices in rooms that are alike, and these by axis of their products."""
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


def _attention(ctx: Rewrite, node: fx.Node) -> Result:
    """`scaled_dot_product_attention`: a key that is not there is masked."""
    given = ctx.given(node)
    query, key, value, mask = (given[name] for name in ("query", "key", "value", "attn_mask"))
    rank = len(key.shape)
    if given["is_causal"]:
        raise Unruled("is_causal counts from the first key")
    if any(a not in (rank - 2,) for v in (query, key, value) for a in v.rooms):
        raise Unruled("its heads or rows")
    room = key.rooms.get(rank - 2)
    if room is not None:
        value = ctx.as_in(value, rank - 2, room)
        key, value = (Roomy(ctx.filled(v, rank - 2, 0), v.rooms) for v in (key, value))
        if mask is None:
            there = ctx.call(aten.reshape.default, ctx.rooms.mask(room), [1, room.size])
            mask = Roomy(ctx.call(aten.expand.default, there, [query.shape[-2], room.size]), {1: room})
        else:
            last = len(mask.shape) - 1
            mask = ctx.as_in(mask, last, room) if last in mask.rooms or mask.shape[last] != 1 else mask
            mask = Roomy(mask.node, {**mask.rooms, last: room})
            is_bool = mask.node.meta["val"].dtype == torch.bool
            mask = Roomy(ctx.filled(mask, last, 0 if is_bool else LOWEST), mask.rooms)
    rows = query.rooms.get(rank - 2)
    args = [query.node, key.node, value.node, None if mask is None else mask.node, given["dropout_p"], False]
    made = ctx.call(node.target, *args, scale=given["scale"], enable_gqa=given["enable_gqa"])
    return ctx.made(made, {} if rows is None else {rank - 2: rows})


def _scaled_sum(ctx: Rewrite, node: fx.Node) -> Result:
    """`addmm(bias, a, weight)`, a layer over rows."""
    bias, a, weight = (ctx.of(arg) for arg in node.args[:3])
    if bias.rooms or weight.rooms or 1 in a.rooms or node.kwargs:
        raise Unruled("a sum of products over that axis")
    return ctx.made(ctx.call(node.target, bias.node, a.node, weight.node), a.rooms)


PRODUCTS: Mapping[Any, Rule] = {
    **ruled(_product, "mm bmm matmul"),
    **ruled(_attention, "scaled_dot_product_attention"),
    **ruled(_scaled_sum, "addmm"),
}
