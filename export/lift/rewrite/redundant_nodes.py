"""Removes checks of one export's sizes and operators that give what they take."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import END, SAME, args_of, aten, named_args, overloads
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.passes import Rule, erase

# Guards for the sizes of one export; the program is exported again at others.
GUARDS = overloads("_assert_scalar _assert_tensor_metadata sym_constrain_range_for_size sym_constrain_range")
# Of a size they are that size: `math.ceil(2 * length)`.
ROUNDED = (math.ceil, math.floor, math.trunc)
CONVERTS = overloads("type_as to.other to.dtype to.dtype_layout to.device _to_copy")
PRODUCTS, PARTS = overloads("mul.Tensor mul.Scalar"), overloads("slice.Tensor select.int narrow index_select")
PADS = overloads("pad constant_pad_nd")
SQUEEZES = (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)


def has_no_guards(graph: fx.Graph) -> bool:
    return not any(node.target in GUARDS for node in graph.nodes)


def _typed(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The type of another tensor, of whose values nothing is taken."""
    if (same := _same(write, node)) is None:
        node.target, node.args = aten._to_copy.default, (args_of(node)[0],)
        node.kwargs = {"dtype": node.meta["val"].dtype}
    return same


def _zeros(write: NodeWriter, node: fx.Node) -> None:
    """Write a part of a tensor times 0, as `x[:, :1] * 0` in front of frames, as zeros."""
    value, factor = args_of(node)[:2]
    if getattr(value, "target", None) in PARTS and isinstance(factor, int | float) and factor == 0:
        node.target, node.args = aten.zeros_like.default, node.args[:1]
        node.kwargs = {"dtype": node.meta["val"].dtype}


def _ceil_of_whole(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """Write `math.ceil(size / n)` in integers, which have a bound in a graph if the size has one."""
    (divided,) = args_of(node)
    if (same := _same(write, node)) is not None or getattr(divided, "target", None) is not operator.truediv:
        return same
    size, by = divided.args
    if not isinstance(size, fx.Node) or not isinstance(size.meta.get("val"), torch.SymInt | int):
        return None
    if type(by) is int and by > 0:
        more = write.graph.call_function(operator.add, (size, by - 1))
        more.meta = {**node.meta, "val": size.meta["val"] + by - 1}
        node.target, node.args = operator.floordiv, (more, by)
    return None


def _squeeze_ones(write: NodeWriter, node: fx.Node) -> fx.Node:
    """Squeeze only axes that always have size 1: a symbolic axis stays, in a step of one frame or one row too."""
    arguments = named_args(node)
    value: fx.Node = arguments["self"]
    before = value.meta["val"]
    asked = arguments.get("dim", range(before.dim()))
    axes = {a % before.dim() for a in ((asked,) if isinstance(asked, int) else asked)} if before.dim() else set()
    for axis in sorted((a for a in axes if isinstance(before.shape[a], int) and before.shape[a] == 1), reverse=True):
        squeezed = write.graph.call_function(aten.squeeze.dim, (value, axis))
        squeezed.meta = {**node.meta, "val": value.meta["val"].squeeze(axis)}
        value = squeezed
    return value


def _same(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The argument whose value this node only repeats, or None."""
    args = args_of(node)
    first = args[0] if args and isinstance(args[0], fx.Node) else None
    if node.target in SAME:
        return first
    if node.target in PADS:
        return first if all(isinstance(n, int) and n == 0 for n in named_args(node)["pad"]) else None
    if node.target in CONVERTS and first is not None:
        return first if first.meta["val"].dtype == node.meta["val"].dtype else None
    if node.target in ROUNDED:
        return first if first is not None and isinstance(first.meta["val"], torch.SymInt) else None
    if node.target is operator.getitem and first is not None and first.target is aten.broadcast_tensors.default:
        broadcast = named_args(first)["tensors"][args[1]]
        return broadcast if broadcast.meta["val"].shape == node.meta["val"].shape else None
    if node.target is operator.getitem and first is not None and first.target is aten.split.Tensor:
        # `x.chunk(1)[0]`, one part of an axis of any size.
        value, parts = named_args(first)["self"], first.meta["val"]
        is_all = len(parts) == 1 and str(parts[0].shape) == str(value.meta["val"].shape)
        return value if is_all else None
    if node.target is aten.slice.Tensor and _is_whole(args[2:]):
        return first
    if node.target is aten.slice_scatter.default and _is_whole(args[3:]):
        return args[1] if isinstance(args[1], fx.Node) else None
    if node.target is aten.copy.default and isinstance(args[1], fx.Node):
        new, old = args[1].meta["val"], node.meta["val"]
        return args[1] if new.dtype == old.dtype and len(new.shape) == len(old.shape) else None
    return None


def _is_whole(bounds: Sequence[Any]) -> bool:
    start, end, step = [*bounds, None, None, None][:3]
    return start in (None, 0) and end in (None, END) and step in (None, 1)


REDUNDANT: Mapping[Any, Rule] = {
    **dict.fromkeys((*SAME, *CONVERTS, *ROUNDED, operator.getitem), _same),
    **dict.fromkeys((*PADS, aten.slice.Tensor, aten.slice_scatter.default, aten.copy.default), _same),
    **dict.fromkeys(SQUEEZES, _squeeze_ones),
    **dict.fromkeys((*GUARDS, "_guards_fn"), erase),
    **dict.fromkeys((aten.type_as.default, aten.to.other), _typed),
    **dict.fromkeys(PRODUCTS, _zeros),
    math.ceil: _ceil_of_whole,
}
