"""Unrolls a `while_loop` whose number of iterations follows from constants, like a Python loop.

Values that the condition reads must be made of constants by the body alone, as a counter is. Any other loop stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import args_of, is_drawn, placeholders, sources_of
from rnn_export.export.lift.ir.node_writer import NodeWriter

# Iterations, at most.
MOST = 256


def unrolled(write: NodeWriter, node: fx.Node) -> None:
    """Replace the results of a `while_loop`, in place, if its number of iterations follows from constants."""
    module = write.module
    condition, body = (module.get_submodule(str(n.target)) for n in args_of(node)[:2])
    carried, others = args_of(node)[2:4]
    assert isinstance(condition, fx.GraphModule)
    assert isinstance(body, fx.GraphModule)
    trips = _trips(condition, body, [_constant(module, value) for value in carried])
    if trips is None or any(n.op == "get_attr" and not _is_tensor(body, n) for n in body.graph.nodes):
        return
    values = list(carried)
    for _ in range(trips):
        values = _iteration(write, body, [*values, *others])
    for user in list(node.users):
        user.replace_all_uses_with(values[args_of(user)[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(node)


def _iteration(write: NodeWriter, body: fx.GraphModule, given: Sequence[Any]) -> list[Any]:
    """The results of `body` for `given`, with its nodes copied."""
    env: dict[fx.Node, Any] = dict(zip(placeholders(body.graph), given, strict=True))
    for node in body.graph.nodes:
        if node.op == "get_attr":
            env[node] = write.constant(attrgetter(str(node.target))(body))
        elif node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
            env[node] = write.call(node.target, *args, **kwargs)
    return [env[n] for n in _results(body)]


def _trips(condition: fx.GraphModule, body: fx.GraphModule, start: Sequence[Any]) -> int | None:
    """The number of iterations, from constants in `start`; None if the condition reads anything else."""
    known = {i for i, value in enumerate(start) if value is not None}
    while lost := {i for i in known if not _reads(body, _results(body)[i]) <= known}:
        known -= lost
    (asked,) = _results(condition)
    if not _reads(condition, asked) <= known:
        return None
    values = {i: start[i] for i in known}
    for trips in range(MOST + 1):
        if not bool(_value(condition, asked, values)):
            return trips
        values = {i: _value(body, _results(body)[i], values) for i in known}
    return None


def _results(module: fx.GraphModule) -> list[fx.Node]:
    values: list[fx.Node] = torch.utils._pytree.tree_leaves(module.graph.output_node().args[0])
    return values


def _reads(module: fx.GraphModule, node: fx.Node) -> set[int]:
    """The indices of placeholders that a value depends on."""
    before = _before(node)
    return {i for i, n in enumerate(placeholders(module.graph)) if n in before}


def _value(module: fx.GraphModule, node: fx.Node, given: Mapping[int, Any]) -> Any:
    """The value of a node that depends on constants and the placeholders `given`, by index."""
    if node.op == "placeholder":
        return given[placeholders(module.graph).index(node)]
    if node.op == "get_attr":
        return attrgetter(str(node.target))(module)
    inputs = {n: _value(module, n, given) for n in node.all_input_nodes}
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), inputs.__getitem__)
    target: Any = node.target
    with torch.no_grad():
        return target(*args, **kwargs)


def _constant(module: fx.GraphModule, value: Any) -> Any:
    """The value of a node made of constants of the graph alone; None for anything else."""
    if not isinstance(value, fx.Node):
        return value
    if _reads(module, value) or not all(_is_pure(n, module) for n in _before(value)):
        return None
    return _value(module, value, {})


def _before(node: fx.Node) -> set[fx.Node]:
    """A node and all nodes that it is computed from."""
    return sources_of(node, lambda n: n.all_input_nodes)


def _is_pure(node: fx.Node, module: fx.GraphModule) -> bool:
    """True if a node is a stored tensor, or computed without random numbers."""
    if node.op == "get_attr":
        return _is_tensor(module, node)
    return isinstance(node.target, torch._ops.OpOverload) and not is_drawn(node)


def _is_tensor(module: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(attrgetter(str(node.target))(module), Tensor)
