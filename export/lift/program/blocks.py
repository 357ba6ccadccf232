"""Reshapes that take N frames at a time, (T, ...) to (T / N, N, ...): windows of N frames, N apart.

`x.view(B, T // N, N * C)` stacks frames, `x.view(B, -1, N)` cuts samples into blocks. As windows they are streamed like
any others. The batch taken apart, (B * F, ...) to (B, F, ...), is none of these.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree
from torch.utils._sympy.functions import FloorDiv

from rnn_export.export.lift.program.fx import aten
from rnn_export.export.lift.program.node_writer import NodeWriter

# Frames that most blocks divide.
MANY = 5040


def in_blocks(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The same of windows; None where the reshape cuts no axis of any size into blocks."""
    x: Any = node.args[0]
    before = list(write.value_of(x).shape)
    whole = math.lcm(MANY, *(n for n in pytree.tree_leaves(node.args[1:]) if type(n) is int and n > 0))
    after = [_settled(size, whole) for size in write.value_of(node).shape]
    at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if not _same(a, b)), len(before))
    if at >= min(len(before), len(after) - 1) or not isinstance(after[at + 1], int):
        return None
    stacked = len(after) == len(before) and isinstance(before[at + 1], int)
    size = after[at + 1] // before[at + 1] if stacked and after[at + 1] % before[at + 1] == 0 else after[at + 1]
    rest = ([size * before[at + 1], *before[at + 2 :]] if stacked else [size, *before[at + 1 :]]) if size > 1 else []
    if not _is_cut(before[at], after[at]) or len(rest) != len(after) - at - 1:
        return None
    if not all(_same(a, b) for a, b in zip(rest, after[at + 1 :], strict=True)):
        return None
    rank = len(before)
    windows = write.call(aten.unfold.default, x, at, size, size)
    order = [*range(at + 1), rank, *range(at + 1, rank)]
    windows = windows if at == rank - 1 else write.call(aten.permute.default, windows, order)
    return write.call(aten.flatten.using_ints, windows, at + 1, at + 2) if stacked else windows


def _settled(size: Any, whole: int) -> Any:
    """The number that a size is where the frames are any multiple of `whole`: T // (T // 2) is 2."""
    if not isinstance(size, torch.SymInt):
        return size
    expression = size.node.expr
    numbers = {expression.subs(dict.fromkeys(expression.free_symbols, n * whole)) for n in (1, 2, 3)}
    return int(numbers.pop()) if len(numbers) == 1 else size


def _same(a: Any, b: Any) -> bool:
    """Whether two sizes are one, whatever it is."""
    a, b = (n.node.expr if isinstance(n, torch.SymInt) else n for n in (a, b))
    return bool(a == b)


def _is_cut(before: Any, after: Any) -> bool:
    """Whether a size of frames becomes a part of it: rows of (B * F, ...) are F a stream.

    T // 6 * 6 are frames too, those of whole blocks.
    """
    if not (isinstance(before, torch.SymInt) and isinstance(after, torch.SymInt)):
        return False
    factor, frames = before.node.expr.as_coeff_Mul()
    is_whole = isinstance(frames, FloorDiv) and frames.divisor.is_Integer and frames.divisor % factor == 0
    return bool(factor == 1 or is_whole) and not after.node.expr.is_symbol
