"""Writes a reshape that stacks frames, (B, T, C) as (B, T / K, K C), as windows of K frames.

A reshape that takes several frames for one is a window with a stride, which a stream can have; one that makes several
of each stays.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten, placeholders
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.size_evaluation import size_at

# An example's axis of more entries is time: those of the batch are fewer.
ROWS = 3
# From so many frames on sizes are compared.
MANY = 1000


def stacked_frames(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The reshape `node` as windows; None if it stacks no frames."""
    value = node.all_input_nodes[0]
    before, after = (write.value_of(n).shape for n in (value, node))
    pairs = enumerate(zip(before, after, strict=False))
    axis = next((a for a, (here, there) in pairs if str(here) != str(there)), None)
    if axis is None:
        return None
    if before[axis] == 1 and not _is_computed(before[axis]) and len(before) > axis + 1:
        # (B, 1, T) as (B, T / K, K)
        value, before = write.call(aten.squeeze.dim, value, axis), (*before[:axis], *before[axis + 1 :])
    # (B, T) as (B, 1, T / K, K)
    is_separate = after[axis] == 1 and not _is_computed(after[axis]) and len(after) > axis + 1
    at = axis + is_separate
    if not _is_computed(before[axis]) or not _is_computed(after[at]):
        return None
    frame, made = before[axis + 1 :], _numbers(node, at + 1, after)
    if any(map(_is_computed, (*frame, *made))) or not math.prod(frame) or math.prod(made) % math.prod(frame):
        return None
    count = math.prod(made) // math.prod(frame)
    if count < 2 or not _is_times(before[axis], after[at], count) or _is_of_rows(write, before[axis]):
        return None
    windows = write.call(aten.unfold.default, value, axis, count, count)
    rank = len(before)
    order = [*range(axis + 1), rank, *range(axis + 1, rank)]
    windows = write.call(aten.permute.default, windows, order)
    whole = write.call(aten.flatten.using_ints, windows, axis + 1, -1)
    whole = whole if len(made) == 1 else write.call(aten.unflatten.int, whole, axis + 1, list(made))
    return write.call(aten.unsqueeze.default, whole, axis) if is_separate else whole


def _numbers(node: fx.Node, axis: int, sizes: Any) -> list[Any]:
    """The sizes from an axis on, as numbers if they were written so: torch may keep T // (T // 2) of a 2."""
    written: Any = node.args[-1]
    if node.target is aten.unflatten.int:
        dim: Any = node.args[1]
        written = [None] * (dim % len(node.all_input_nodes[0].meta["val"].shape)) + written
    written = [*written, *[None] * (len(sizes) - len(written))]
    return [n if type(n) is int and n > 0 else m for n, m in zip(written[axis:], sizes[axis:], strict=True)]


def _is_computed(size: Any) -> bool:
    return isinstance(size, torch.SymInt)


def _is_of_rows(write: NodeWriter, size: torch.SymInt) -> bool:
    """True if a size depends on that of the batch."""
    sizes = (n for fed in placeholders(write.graph) for n in fed.meta["val"].shape if _is_computed(n))
    return any(n.node.expr in size.node.expr.free_symbols and n.node.hint <= ROWS for n in sizes)


def _is_times(before: torch.SymInt, after: torch.SymInt, count: int) -> bool:
    """True if `before` is `count` times `after`, wherever it is a multiple of `count`."""
    expressions = [size.node.expr for size in (before, after)]
    if expressions[0].free_symbols != expressions[1].free_symbols or len(expressions[0].free_symbols) != 1:
        return False
    sizes = [(size_at(before, n), size_at(after, n)) for n in range(MANY, MANY + count)]
    whole = [(n, m) for n, m in sizes if n is not None and n % count == 0]
    return bool(whole) and all(m is not None and n == m * count for n, m in whole)
