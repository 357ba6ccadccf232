"""Products over ragged axes: invalid entries add nothing to a sum, and stay invalid elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from rnn_export.export.lift.rewrite.ragged.ragged_axes import RaggedAxis
from rnn_export.export.lift.rewrite.ragged.ragged_tensors import RaggedTensor, Result, Rewrite, Rule, Unruled, ruled


def _product(ctx: Rewrite, node: fx.Node) -> Result:
    """`mm`, `bmm`, and `matmul` of matrices."""
    a, b = (ctx.of(arg) for arg in node.args)
    ranks = (len(a.shape), len(b.shape))
    if min(ranks) < 2:
        raise Unruled("a product with a vector")
    ragged = a.ragged_axes.get(ranks[0] - 1) or b.ragged_axes.get(ranks[1] - 2)
    if ragged is not None:
        a, b = ctx.as_in(a, ranks[0] - 1, ragged), ctx.as_in(b, ranks[1] - 2, ragged)
        a = RaggedTensor(ctx.filled(a, ranks[0] - 1, 0), a.ragged_axes)
        b = RaggedTensor(ctx.filled(b, ranks[1] - 2, 0), b.ragged_axes)
    a, b, ragged_axes = _aligned(ctx, a, b)
    rank = max(ranks)
    if (rows := a.ragged_axes.get(ranks[0] - 2)) is not None:
        ragged_axes[rank - 2] = rows
    if (columns := b.ragged_axes.get(ranks[1] - 1)) is not None:
        ragged_axes[rank - 1] = columns
    return ctx.made(ctx.call(node.target, a.node, b.node), ragged_axes)


def _aligned(
    ctx: Rewrite, a: RaggedTensor, b: RaggedTensor
) -> tuple[RaggedTensor, RaggedTensor, dict[int, RaggedAxis]]:
    """Two batches of matrices with the same ragged axes, and these by axis of their products."""
    rank, ragged_axes = max(len(a.shape), len(b.shape)), dict[int, RaggedAxis]()
    for value in (a, b):
        more = rank - len(value.shape)
        ragged_axes |= {x + more: ragged for x, ragged in value.ragged_axes.items() if x < len(value.shape) - 2}
    sides = []
    for value in (a, b):
        more = rank - len(value.shape)
        for axis, ragged in ragged_axes.items():
            if axis >= more and (axis - more in value.ragged_axes or value.shape[axis - more] != 1):
                value = ctx.as_in(value, axis - more, ragged)
        sides.append(value)
    return sides[0], sides[1], ragged_axes


def _scaled_sum(ctx: Rewrite, node: fx.Node) -> Result:
    """`addmm(bias, a, weight)`, a layer over rows."""
    bias, a, weight = (ctx.of(arg) for arg in node.args[:3])
    if bias.ragged_axes or weight.ragged_axes or 1 in a.ragged_axes or node.kwargs:
        raise Unruled("a sum of products over that axis")
    return ctx.made(ctx.call(node.target, bias.node, a.node, weight.node), a.ragged_axes)


PRODUCTS: Mapping[Any, Rule] = {
    **ruled(_product, "mm bmm matmul"),
    **ruled(_scaled_sum, "addmm"),
}
