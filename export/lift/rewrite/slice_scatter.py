"""Slice assignment, `out[:, 1:] = x[:, :-1]`, as a concatenation with the segments around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import END, aten, named_args
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.rewrite.constant_values import fill_of
from rnn_export.export.lift.rewrite.resampling import rate_of


def joined(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The scatter `node` along a symbolic axis as a concatenation, or interleaved if it has steps.

    None for other axes and bounds.
    """
    given = named_args(node)
    value, segment, axis = given["self"], given["src"], given["dim"]
    size = write.value_of(node).shape[axis]
    if isinstance(size, int):
        return None
    if "index" in given:
        segment = write.call(aten.unsqueeze.default, segment, axis)
        start: Any = given["index"]
        end: Any = END if start == -1 else start + 1 if isinstance(start, int) else None
    else:
        start, end = given.get("start") or 0, given.get("end")
        if given.get("step", 1) != 1:
            return _interleaved(write, value, segment, axis, start, given["step"])
    end = END if end is None and "index" not in given else end
    if isinstance(end, fx.Node) and _is(write.value_of(end), size):
        end = END
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    front, back = start > 0, end < END
    if (start, end) == (0, 1) and _is_fed(segment):
        # What is computed of the first frame stands for it alone.
        return write.call(aten.where.self, _from_place(write, value, axis, 1), value, segment)
    parts = []
    if front:
        parts.append(_part(write, value, axis, 0, start) if _is_full(value) else _zeros_of(write, segment, axis, start))
    parts.append(segment)
    if back:
        parts.append(_part(write, value, axis, end, END))
    found = write.call(aten.cat.default, parts, axis) if len(parts) > 1 else write.call(aten.clone.default, segment)
    if not front or _is_full(value):
        return found
    # What stands before the piece is told by its place, which a stream counts.
    return write.call(aten.where.self, _from_place(write, value, axis, start), found, value)


def _from_place(write: NodeWriter, value: fx.Node, axis: int, start: int) -> fx.Node:
    """The mask of indices from `start` on along an axis, in a shape that `value` broadcasts with."""
    numbers = write.call(aten.arange.default, write.call(aten.sym_size.int, value, axis))
    rank = len(write.value_of(value).shape)
    places = write.call(aten.reshape.default, numbers, [-1, *[1] * (rank - 1 - axis % rank)])
    return write.call(aten.ge.Scalar, places, start)


def _is_fed(node: fx.Node) -> bool:
    """True if a value is computed of an input, and not of its sizes alone."""
    seen, left = set[fx.Node](), [node]
    while left:
        if (one := left.pop()) in seen or one.target is aten.sym_size.int:
            continue
        if one.op == "placeholder":
            return True
        seen.add(one)
        left += one.all_input_nodes
    return False


def _interleaved(
    write: NodeWriter, value: fx.Node, segment: fx.Node, axis: int, start: Any, step: int
) -> fx.Node | None:
    """The entries of `segment`, each among `step` - 1 of one number, `start` of which stand before it."""
    sizes = [write.value_of(n).shape[axis] for n in (segment, value)]
    fill = fill_of(value)
    if not isinstance(fill, int | float) or rate_of(*sizes) != step or type(start) is not int or not 0 <= start < step:
        return None
    axis %= len(write.value_of(value).shape)
    each = write.call(aten.unsqueeze.default, segment, axis + 1)
    pads = [0, 0] * (len(write.value_of(value).shape) - axis - 1) + [start, step - 1 - start]
    each = write.call(aten.constant_pad_nd.default, each, pads, fill)
    return write.call(aten.flatten.using_ints, each, axis, axis + 1)


def _is_full(node: fx.Node) -> bool:
    """True if a value is filled with a constant."""
    return node.target is aten.full.default and not isinstance(node.args[1], fx.Node)


def _part(write: NodeWriter, value: fx.Node, axis: int, start: int, end: int) -> fx.Node:
    """Entries of a value; a shorter fill of a constant one."""
    count = end - start if end < END else -start
    if not _is_full(value) or count <= 0:
        return write.call(aten.slice.Tensor, value, axis, start, end)
    sizes: Any = list(value.args[0])  # type: ignore[arg-type]
    sizes[axis] = count
    return write.call(aten.full.default, sizes, value.args[1], **value.kwargs)


def _zeros_of(write: NodeWriter, segment: fx.Node, axis: int, count: int) -> fx.Node:
    shape = write.value_of(segment).shape
    sizes = [
        count if a == axis % len(shape) else n if isinstance(n, int) else write.call(aten.sym_size.int, segment, a)
        for a, n in enumerate(shape)
    ]
    return write.call(aten.full.default, sizes, 0, dtype=write.value_of(segment).dtype)


def _is(number: Any, size: Any) -> bool:
    return isinstance(number, torch.SymInt) and bool(number.node.expr == size.node.expr)
