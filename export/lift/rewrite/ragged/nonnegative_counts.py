"""Finds counters that are never negative: they start at zero or above, and no call takes them below."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from rnn_export.export.lift.ir.fx_nodes import named_args, overloads
from rnn_export.export.lift.ir.symbolic_integers import origin_of

SUMS = overloads("add.Tensor add.Scalar")
LEAST = overloads("minimum maximum mul.Tensor mul.Scalar where.self")
RESTS = overloads("remainder.Scalar remainder.Tensor")


def never_below_zero(module: fx.GraphModule, count: fx.Node, after: fx.Node) -> bool:
    """True if `after`, the next value of `count`, is at least zero if `count` is."""

    def is_so(value: Any) -> bool:
        if not isinstance(value, fx.Node):
            return isinstance(value, int | float) and value >= 0
        node = origin_of(value)
        if node is count:
            return True
        if node.op == "get_attr":
            return bool((operator.attrgetter(str(node.target))(module) >= 0).all())
        return node.op == "call_function" and _is_so(node, is_so)

    return is_so(after)


def _is_so(node: fx.Node, is_so: Callable[[Any], bool]) -> bool:
    if node.target in SUMS:
        return is_so(node.kwargs.get("alpha", 1)) and all(map(is_so, node.args))
    if node.target in LEAST:
        sides = node.args[1:] if len(node.args) == 3 else node.args
        return all(map(is_so, sides))
    if node.target in overloads("clamp clamp_min"):
        least = named_args(node)["min"]
        return least is not None and is_so(least)
    if node.target in RESTS:
        return is_so(node.args[1])
    return node.target in overloads("full") and is_so(node.args[1])
