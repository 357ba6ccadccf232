"""What fills a last window up, where code adds nothing to whole ones: `if n % k: x = F.pad(x, (0, k - n % k))`.

torch.export goes one way. That of sequences with a rest holds for all of them once `k - n % k` is `(k - n % k) % k`.
"""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Iterator

import sympy
import torch
from torch import Tensor, fx

# A length from which on numbers are looked at, and how many of them.
FROM, MOST = 1 << 12, 256


def filled_up(module: fx.GraphModule) -> tuple[fx.GraphModule, int] | None:
    """A copy that adds nothing to whole windows, and by how many frames windows lie apart; None of other graphs.

    What torch knows of sizes in it is that of `module`.
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
    """Let what torch reckoned of the filled length, without the rest, be that of whole windows where there is none."""
    for node in [n for n in graph.nodes if isinstance(n.meta.get("val"), Tensor)]:
        for number in {n for n in node.all_input_nodes if _is_number(n)}:
            if (more := _by_window(number.meta["val"].node.expr, size)) is None:
                continue
            with graph.inserting_before(node):
                whole = graph.call_function(operator.floordiv, (rest, size))
                less = graph.call_function(operator.mul, (whole, more))
                right = graph.call_function(operator.sub, (number, less))
            node.replace_input_with(number, right)


def _is_number(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta.get("val"), torch.SymInt)


def _by_window(expression: sympy.Expr, size: int) -> int | None:
    """By how much a number grows with each `size` frames, at once; None of others."""
    if len(expression.free_symbols) != 1:
        return None
    (symbol,) = expression.free_symbols
    first = FROM - FROM % size
    values = [expression.subs(symbol, n) for n in (first, first + size - 1, first + size, first + 2 * size)]
    if not all(v.is_Integer for v in values) or values[0] != values[1]:
        return None
    more = int(values[2] - values[1])
    return more if more and values[3] - values[2] == more else None


def _rests(graph: fx.Graph) -> Iterator[tuple[fx.Node, int]]:
    """The numbers that go from k down to 1 as a length grows, and then from k again."""
    for node in graph.nodes:
        if not _is_number(node):
            continue
        expression = node.meta["val"].node.expr
        if len(expression.free_symbols) != 1:
            continue
        sizes = {int(n) for n in expression.atoms(sympy.Integer) if n > 1}
        if (size := next((k for k in sorted(sizes) if _goes_down(expression, k)), None)) is not None:
            yield node, size


def _goes_down(expression: sympy.Expr, size: int) -> bool:
    (symbol,) = expression.free_symbols
    lengths = range(FROM, FROM + min(2 * size, MOST) + 1)
    values = [expression.subs(symbol, n) for n in lengths]
    if not all(v.is_Integer and 1 <= v <= size for v in values):
        return False
    return all(b == (a - 1 if a > 1 else size) for a, b in itertools.pairwise(values))
