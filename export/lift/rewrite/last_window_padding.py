"""Padding of an incomplete last window, if there is one: `if n % k: x = F.pad(x, (0, k - n % k))`.

torch.export traces one branch. That with a remainder holds for all lengths once `k - n % k` is `(k - n % k) % k`.
"""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Iterator

import sympy
import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.symbolic_integers import size_at

# A length from which on numbers are looked at, and how many of them.
FROM, MOST = 1 << 12, 256


def filled_up(module: fx.GraphModule) -> tuple[fx.GraphModule, int] | None:
    """A copy that adds nothing to whole windows, and the hop of windows in frames; None for other graphs.

    Its symbolic sizes are those of `module`.
    """
    found = dict(_rests(module.graph))
    if not found or len({*found.values()}) > 1:
        return None
    (size,) = {*found.values()}
    new = copy.deepcopy(module)
    copies = dict(zip(module.graph.nodes, new.graph.nodes, strict=True))
    rests = [copies[node] for node in found]
    for rest in rests:
        users = [*rest.users]
        with new.graph.inserting_after(rest):
            left = new.graph.call_function(operator.mod, (rest, size))
        left.meta = {**rest.meta, "val": rest.meta["val"] % size}
        for user in users:
            user.replace_input_with(rest, left)
    _take_off(new.graph, rests[0], size)
    new.recompile()
    return new, size


def _take_off(graph: fx.Graph, rest: fx.Node, size: int) -> None:
    """Subtract a window from sizes computed of the padded length, where the last window is whole."""
    for node in [n for n in graph.nodes if isinstance(n.meta.get("val"), Tensor)]:
        for number in {n for n in node.all_input_nodes if _is_number(n)}:
            if (more := _by_window(number.meta["val"], size)) is None:
                continue
            with graph.inserting_before(node):
                whole = graph.call_function(operator.floordiv, (rest, size))
                less = graph.call_function(operator.mul, (whole, more))
                right = graph.call_function(operator.sub, (number, less))
            node.replace_input_with(number, right)


def _is_number(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta.get("val"), torch.SymInt)


def _by_window(number: torch.SymInt, size: int) -> int | None:
    """The growth of a number with each `size` frames, if at once; else None."""
    if len(number.node.expr.free_symbols) != 1:
        return None
    first = FROM - FROM % size
    values = [size_at(number, n) for n in (first, first + size - 1, first + size, first + 2 * size)]
    known = [v for v in values if v is not None]
    if len(known) < len(values) or known[0] != known[1]:
        return None
    more = known[2] - known[1]
    return more if more and known[3] - known[2] == more else None


def _rests(graph: fx.Graph) -> Iterator[tuple[fx.Node, int]]:
    """Yield the numbers that fall from k to 1 as a length grows, then from k again, and k."""
    for node in graph.nodes:
        if not _is_number(node):
            continue
        number = node.meta["val"]
        if len(number.node.expr.free_symbols) != 1:
            continue
        sizes = {int(n) for n in number.node.expr.atoms(sympy.Integer) if n > 1}
        if (size := next((k for k in sorted(sizes) if _goes_down(number, k)), None)) is not None:
            yield node, size


def _goes_down(number: torch.SymInt, size: int) -> bool:
    values = [size_at(number, n) for n in range(FROM, FROM + min(2 * size, MOST) + 1)]
    known = [v for v in values if v is not None and 1 <= v <= size]
    return known == values and all(b == (a - 1 if a > 1 else size) for a, b in itertools.pairwise(known))
