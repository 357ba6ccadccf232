"""Conversion of `torch.ops.higher_order.scan` operators to folded loops."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.fx_nodes import args_of, placeholders, results
from rnn_export.export.lift.ir.source_location import place_of
from rnn_export.export.lift.loops.loop_body import RolledLoop
from rnn_export.export.lift.loops.loop_iterations import Join
from rnn_export.export.lift.loops.loop_operands import BodyValue
from rnn_export.export.lift.loops.value_references import Part
from rnn_export.export.lift.rewrite.while_loops import MOST


def roll_operators(module: fx.GraphModule) -> None:
    """Make each scan of `module` a RolledLoop, in place: it runs over axis 0 of its sequences, and stacks there.

    Raises LiftError for a while_loop.
    """
    by_name = {n: str(n.target) for n in module.graph.nodes if isinstance(n.target, HigherOrderOperator)}
    if (loop := next((n for n in by_name if by_name[n] == "while_loop"), None)) is not None:
        raise LiftError(
            f"{place_of(loop)}: while_loop is lifted where the number of its iterations follows from constants, up to "
            f"{MOST}. Here it does not, and which frame each takes is a value in it. Loop over the frames in Python, "
            "or with torch's scan.",
            id="while-loop-by-value",
        )
    for i, node in enumerate([n for n in by_name if by_name[n] == "scan"]):
        name = f"scan{i}"
        module.add_submodule(name, _loop(module, node))
        _, init, sequences, others = args_of(node)
        with module.graph.inserting_before(node):
            called = module.graph.call_module(name, (*others, *sequences, *init))
        called.meta = {key: known for key, known in node.meta.items() if key != "val"}
        joins = len(node.meta["val"]) - len(init)
        for user in list(node.users):
            assert user.target is operator.getitem
            result = args_of(user)[1]
            user.args = (called, joins + result if result < len(init) else result - len(init))
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _loop(module: fx.GraphModule, node: fx.Node) -> RolledLoop:
    """The body (carried..., frames..., others...) of a scan as (others..., frames..., carried...)."""
    source, init, sequences, _ = args_of(node)
    combine = module.get_submodule(str(source.target))
    assert isinstance(combine, fx.GraphModule)
    given, graph = placeholders(combine.graph), fx.Graph()
    others = len(init) + len(sequences)
    order = [*given[others:], *given[len(init) : others], *given[: len(init)]]
    env: dict[fx.Node, fx.Node] = {n: graph.placeholder(n.name) for n in order}
    for inner in combine.graph.nodes:
        if inner.op not in ("placeholder", "output"):
            env[inner] = graph.node_copy(inner, lambda n: env[n])
    values: Any = [env[n] for n in results(combine.graph)]
    graph.output(tuple(values))
    joins = [Join(BodyValue(0), torch.stack, 0)] * (len(values) - len(init))
    frame = (Part("select", 0, 0),)
    return RolledLoop(fx.GraphModule(combine, graph), [frame] * len(sequences), len(init), joins)
