"""Rewrites parallel scans that are made of running sums as linear recurrences.

A linear recurrence h[t] = a[t] * h[t - 1] + x[t] can be computed from running products, and from logarithms, as F.
Heinsen wrote it in 2023:

    P = a[0] * a[1] * ...      h = P * running sum (x / P)
    A = running sum (log a)    log h = A + running log-sum-exp (log x - A)

Over many frames P vanishes and A grows without end; the recurrence does neither, so a stream takes that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten, named_args, overloads
from rnn_export.export.lift.loops.recurrences.linear_recurrences import log_recurrence, recurrence

PADS = overloads("pad constant_pad_nd")
LINEAR, LOG_LINEAR = recurrence._opoverload, log_recurrence._opoverload


def fold_parallel_scans(module: fx.GraphModule) -> None:
    """Let every parallel scan of `module` be one operator, in place."""
    for node in list(module.graph.nodes):
        for first, second in _orders(node):
            if node.target is aten.add.Tensor:
                _fold_logs(node, first, second)
            elif node.target is aten.mul.Tensor:
                _fold_products(node, first, second)
    module.graph.eliminate_dead_code()
    module.recompile()


def _orders(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    if node.target in (aten.add.Tensor, aten.mul.Tensor) and len(node.all_input_nodes) == 2 and not node.kwargs:
        first, second = node.all_input_nodes
        yield first, second
        yield second, first


def _fold_logs(node: fx.Node, sums: fx.Node, logs: fx.Node) -> None:
    """Make sums + logcumsumexp(log_x - sums) a recurrence."""
    if logs.target is not aten.logcumsumexp.default or not node.users:
        return
    inside, dim = args_of(logs)
    if inside.target is not aten.sub.Tensor or inside.args[1] is not sums or inside.kwargs:
        return
    log_x, log_a = inside.args[0], _summed(sums, dim)
    if log_a is None:
        return
    if all(user.target is aten.exp.default for user in node.users):
        # What is not taken as a logarithm need not be one.
        graph = node.graph
        with graph.inserting_before(node):
            a, x = (graph.call_function(aten.exp.default, (n,)) for n in (log_a, log_x))
        made = _insert(node, LINEAR, a, x, dim)
        for user in list(node.users):
            user.replace_all_uses_with(made)
    else:
        node.replace_all_uses_with(_insert(node, LOG_LINEAR, log_a, log_x, dim))


def _fold_products(node: fx.Node, product: fx.Node, sums: fx.Node) -> None:
    """Make product * cumsum(x / product) a recurrence."""
    if sums.target is not aten.cumsum.default or sums.kwargs or not node.users:
        return
    inside, dim = args_of(sums)
    a, x = _multiplied(product, dim), _divided(inside, product)
    if a is None or x is None:
        return
    with node.graph.inserting_before(node):
        factor = a(node.graph)
    node.replace_all_uses_with(_insert(node, LINEAR, factor, x, dim))


def _divided(node: fx.Node, product: fx.Node) -> fx.Node | None:
    """The x of `node` as x / `product`, or x times its inverse; else None."""
    if node.kwargs or len(node.all_input_nodes) != 2:
        return None
    if node.target is aten.div.Tensor:
        return args_of(node)[0] if _alike(args_of(node)[1], product) else None
    if node.target is aten.mul.Tensor:
        first, second = args_of(node)
        return next((x for x, by in ((first, second), (second, first)) if _is_inverse(by, product)), None)
    return None


def _is_inverse(node: fx.Node, product: fx.Node) -> bool:
    taken = args_of(node)
    if node.target is aten.reciprocal.default:
        return _alike(taken[0], product)
    if node.target is aten.pow.Tensor_Scalar:
        return bool(taken[1] == -1) and _alike(taken[0], product)
    if node.target is aten.exp.default and taken[0].target is aten.neg.default:
        return product.target is aten.exp.default and _alike(args_of(taken[0])[0], args_of(product)[0])
    return False


def _alike(a: Any, b: Any) -> bool:
    """True if two nodes are one, or equal calls of equal arguments."""
    if a is b or not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
        return a is b or (type(a) is type(b) and not isinstance(a, fx.Node) and bool(a == b))
    same_call = a.op == "call_function" and a.target is b.target and len(a.args) == len(b.args)
    return same_call and a.kwargs == b.kwargs and all(map(_alike, a.args, b.args))


def _summed(node: fx.Node, dim: int) -> fx.Node | None:
    """The summand of the running sum `node` along `dim`; zeros before the sum go before the summand."""
    if node.target is aten.cumsum.default and not node.kwargs and _same_axis(node, dim):
        summed: fx.Node = args_of(node)[0]
        return summed
    if node.target in PADS and _pads_with_zeros(node) and (inside := _summed(args_of(node)[0], dim)) is not None:
        return _insert(node, node.target, inside, *args_of(node)[1:])
    return None


def _pads_with_zeros(node: fx.Node) -> bool:
    given = named_args(node)
    return (
        given.get("mode", "constant") == "constant"
        and not given.get("value")
        and all(type(n) is int and n == 0 for n in given["pad"][1::2])
    )


def _multiplied(node: fx.Node, dim: int) -> Callable[[fx.Graph], fx.Node] | None:
    """A maker of the factors whose running product along `dim` is `node`."""
    if node.target is aten.cumprod.default and not node.kwargs and _same_axis(node, dim):
        factors = args_of(node)[0]
        return lambda graph: factors
    if node.target is aten.exp.default and (logs := _summed(args_of(node)[0], dim)) is not None:
        return lambda graph: graph.call_function(aten.exp.default, (logs,))
    return None


def _same_axis(node: fx.Node, dim: int) -> bool:
    value = node.meta.get("val")
    rank = value.dim() if isinstance(value, Tensor) else 0
    own: int = args_of(node)[1]
    return own == dim or (rank > 0 and own % rank == dim % rank)


def _insert(before: fx.Node, target: Any, *args: Any) -> fx.Node:
    with before.graph.inserting_before(before):
        new = before.graph.call_function(target, args)
    new.meta = {key: known for key, known in before.meta.items() if key != "val"}
    return new
