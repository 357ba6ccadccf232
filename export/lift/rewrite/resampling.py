"""Interpolation and pools to a size as windows and products: P output frames for every Q over time, other axes at once.

Output frame j stands at (j + 1/2) Q / P - 1/2 of the input, and is made of the frames around that place: so every P of
them are made of the same Q frames and their neighbours. The ends of a sequence are replicated. With `align_corners`, or
a size that is no multiple, the place follows from the length, and no stream has that.

Pools to a size keep the time axis. An axis pooled to its own size stays.

Sources: the docstrings of torch.nn.functional.interpolate, torch.nn.AdaptiveAvgPool2d and AdaptiveMaxPool2d; each
operator computes its weights itself.
"""

from __future__ import annotations

import operator
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rnn_export.export.lift.ir.fx_nodes import aten, named_args, overloads
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.symbolic_integers import size_at

# Frames at which it is seen how many there are behind an operator.
SEEN = (5040, 10080)
# P and Q, at most.
MOST = 64
# By word in an operator's name, the same along the last of two axes, and how many frames on each side it reads.
ALONG_ONE: dict[str, tuple[Any, int]] = {
    "nearest_exact": (aten._upsample_nearest_exact2d.default, 0),
    "nearest": (aten.upsample_nearest2d.default, 0),
    "linear": (aten.upsample_bilinear2d.default, 1),
    "bicubic": (aten.upsample_bicubic2d.default, 2),
}
RESAMPLING = overloads(
    "upsample_nearest1d upsample_nearest1d.vec upsample_nearest2d upsample_nearest2d.vec upsample_nearest3d "
    "upsample_nearest3d.vec _upsample_nearest_exact1d _upsample_nearest_exact1d.vec _upsample_nearest_exact2d "
    "_upsample_nearest_exact2d.vec _upsample_nearest_exact3d _upsample_nearest_exact3d.vec upsample_linear1d "
    "upsample_linear1d.vec upsample_bilinear2d upsample_bilinear2d.vec upsample_trilinear3d upsample_trilinear3d.vec "
    "upsample_bicubic2d upsample_bicubic2d.vec"
)


def resampled(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The interpolation `node` as windows; None unless one axis is symbolic, or if places depend on the length."""
    name, given = str(node.target), named_args(node)
    one, reach = next(known for word, known in ALONG_ONE.items() if word in name)
    value: Any = node.args[0]
    sizes, made = (list(write.value_of(n).shape[2:]) for n in (value, node))
    moving = [axis for axis, size in enumerate(sizes) if not isinstance(size, int)]
    if len(moving) != 1:
        return None
    (time,) = moving
    scales, corners = _scales(given, len(sizes)), bool(given.get("align_corners"))
    scale = scales[time]
    rate = rate_of(sizes[time], made[time]) if scale is None else Fraction(scale).limit_denominator(MOST)
    if rate is None or (rate != 1 and corners):
        return None
    if (scale is None and rate.denominator > 1) or (scale is not None and abs(scale - rate) > 1e-9 * rate):
        return None
    for axis in (a for a in range(len(sizes)) if a != time):
        weights = _weights(one, sizes[axis], made[axis], scales[axis], corners)
        value = weighed(write, value, axis + 2, weights, picks=not reach)
    if rate == 1:
        return cast(fx.Node, value)
    more = _over_time(write, value, time + 2, rate, one, reach)
    return more if more is None else _cut(write, more, value, time + 2, rate, node)


def _scales(given: dict[str, Any], axes: int) -> list[float | None]:
    """The scale factor of each axis; None for one given by size."""
    if "scale_factors" in given:
        return list(given["scale_factors"] or [None] * axes)
    names = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}[axes]
    return [given.get(name) for name in names]


def rate_of(before: Any, after: Any) -> Fraction | None:
    """The output frames for each input frame; None if the ratio depends on the length."""
    found = set()
    for frames in SEEN:
        here, there = size_at(before, frames), size_at(after, frames)
        if not here or not there:
            return None
        found.add(Fraction(there, here))
    rate = found.pop()
    return None if found or max(rate.numerator, rate.denominator) > MOST else rate


def _weights(one: Any, size: int, made: int, scale: float | None, corners: bool = False) -> Tensor:
    """The weights (size, made) of the entries of an axis in the output, as the operator itself computes them."""
    more = () if "nearest" in str(one) else (corners,)
    each = torch.eye(size, dtype=torch.float64).reshape(1, size, 1, size)
    weights: Tensor = one(each, [1, made], *more, None, scale)
    return weights.reshape(size, made)


def weighed(write: NodeWriter, value: fx.Node, axis: int, weights: Tensor, picks: bool) -> fx.Node:
    """`value` with `weights` (size, made) applied along an axis, as a product or as picked entries."""
    if weights.shape[0] == weights.shape[1] and bool((weights == torch.eye(len(weights))).all()):
        return value
    if picks:
        return write.call(aten.index_select.default, value, axis, write.constant(weights.argmax(0)))
    last = len(write.value_of(value).shape) - 1
    if axis != last:
        value = write.call(aten.transpose.int, value, axis, last)
    value = write.call(aten.matmul.default, value, write.constant(weights.float()))
    return value if axis == last else write.call(aten.transpose.int, value, axis, last)


def _over_time(write: NodeWriter, value: fx.Node, axis: int, rate: Fraction, one: Any, reach: int) -> fx.Node | None:
    """P frames for every Q, with those behind the last one; or None."""
    taken, made = rate.denominator, rate.numerator
    rank = len(write.value_of(value).shape)
    if taken == 1 and not reach:
        each = write.call(aten.unsqueeze.default, value, axis + 1)
        sizes = [made if a == axis + 1 else -1 for a in range(rank + 1)]
        return write.call(aten.flatten.using_ints, write.call(aten.expand.default, each, sizes), axis, axis + 1)
    # Of a few windows, the weights of one that has neighbours on both sides.
    blocks, at = 2 * reach + 3, reach + 1
    whole = _weights(one, taken * blocks, made * blocks, float(rate))
    weights = whole[at * taken - reach : (at + 1) * taken + reach, at * made : (at + 1) * made]
    if not torch.allclose(weights.sum(0), torch.ones(made, dtype=torch.float64), rtol=0, atol=1e-9):
        return None
    pads = [0, 0] * (rank - axis - 1) + [reach, taken - 1 + reach]
    value = padded(write, value, axis, pads, "replicate" if reach else "constant")
    windows = write.call(aten.unfold.default, value, axis, taken + 2 * reach, taken)
    windows = weighed(write, windows, rank, weights, picks=not reach)
    order = [*range(axis + 1), rank, *range(axis + 1, rank)]
    return write.call(aten.flatten.using_ints, write.call(aten.permute.default, windows, order), axis, axis + 1)


def padded(write: NodeWriter, value: fx.Node, axis: int, pads: list[int], mode: str) -> fx.Node:
    """Pad an axis. Replication pads last axes alone, so that time goes there and back."""
    if not any(pads):
        return value
    last = len(write.value_of(value).shape) - 1
    if mode == "constant":
        return write.call(aten.constant_pad_nd.default, value, pads, 0.0)
    order = [*(a for a in range(last + 1) if a != axis), axis]
    rank = last + 1
    turned = value if axis == last else write.call(aten.permute.default, value, order)
    flat = write.call(aten.flatten.using_ints, turned, 1, rank - 2) if rank > 3 else turned
    padded = write.call(aten.pad.default, flat, pads[-2:], mode)
    if rank > 3:
        padded = write.call(aten.unflatten.int, padded, 1, list(write.value_of(turned).shape[1:-1]))
    back = [order.index(a) for a in range(rank)]
    return padded if axis == last else write.call(aten.permute.default, padded, back)


def _cut(write: NodeWriter, more: fx.Node, value: fx.Node, axis: int, rate: Fraction, node: fx.Node) -> fx.Node:
    """`more`, no longer than the result of `node`."""
    size = named_args(node).get("output_size")
    if statically_known_true(write.value_of(more).shape[axis] == write.value_of(node).shape[axis]):
        return more
    if size:
        return write.call(aten.slice.Tensor, more, axis, 0, size[axis - 2])
    if rate.denominator == 1:
        return more
    frames = write.call(operator.mul, write.call(aten.sym_size.int, value, axis), rate.numerator)
    return write.call(aten.slice.Tensor, more, axis, 0, write.call(operator.floordiv, frames, rate.denominator))


def pooled_to_size(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The pool `node` as other operators; None if it resizes a symbolic axis, or has no such form."""
    value, made, is_mean = named_args(node)["self"], write.value_of(node), "avg" in str(node.target)
    if not is_mean:
        if any(u.target is not operator.getitem or (u.args[1] != 0 and u.users) for u in node.users):
            return None
        made = made[0]
    sizes, axes = write.value_of(value).shape, len(named_args(node)["output_size"])
    places = range(len(sizes) - axes, len(sizes))
    # Where torch.export freezes the length, all are numbers.
    for axis in (a for a in places if rate_of(sizes[a], made.shape[a]) != 1):
        if not isinstance(sizes[axis], int):
            return None
        if made.shape[axis] == 1:
            value = write.call(aten.mean.dim if is_mean else aten.amax.default, value, [axis], True)
        elif is_mean:
            value = weighed(write, value, axis, _shares(sizes[axis], made.shape[axis]), picks=False)
        else:
            return None
    if not is_mean:
        for user in list(node.users):
            if user.users:
                user.replace_all_uses_with(value)
            write.graph.erase_node(user)
    return cast(fx.Node, value)


def _shares(size: int, made: int) -> Tensor:
    """The weights (size, made) of the entries of an axis in each pooled entry."""
    each: Any = torch.eye(size, dtype=torch.float64)[None]
    return torch.nn.functional.adaptive_avg_pool1d(each, made)[0]
