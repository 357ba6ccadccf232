"""Decompose operators of a program in their place: torch traces the whole program anew for one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from rnn_export.export.lift.trace.functionalize import in_new_values

Decompositions = Mapping[Any, Callable[..., Any]]


def decompose_nodes(program: torch.export.ExportedProgram, table: Decompositions) -> bool:
    """Decompose every operator of `table` and keep the rest; return True if none of them is left."""
    graph = program.graph
    for node in [n for n in graph.nodes if n.target in table]:
        if (written := _written(node, table)) is None:
            return False
        given = [n for n in written.nodes if n.op == "placeholder"]
        copies = dict(zip(given, node.all_input_nodes, strict=True))
        with graph.inserting_before(node):
            made = graph.graph_copy(written, copies)
        for new in (c for n, c in copies.items() if n.op != "placeholder"):
            new.meta = {**node.meta, "val": new.meta["val"]}
        _put_in_place(node, made)
    return True


def _put_in_place(node: fx.Node, made: Any) -> None:
    """Let the users of `node`, or of parts of it, take `made`; results keep their names."""
    graph = node.graph
    parts = {node: made} if isinstance(made, fx.Node) else {u: made[u.args[1]] for u in list(node.users)}
    for before, after in parts.items():
        name = before.name
        before.replace_all_uses_with(after)
        graph.erase_node(before)
        after.name = name
    if node not in parts:
        graph.erase_node(node)


def _written(node: fx.Node, table: Decompositions) -> fx.Graph | None:
    """The decomposition of an operator, a graph of its input nodes; None if it holds more than that."""
    nodes, target = node.all_input_nodes, cast(Callable[..., Any], node.target)

    def call(*values: Any) -> Any:
        known = dict(zip(nodes, values, strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        made = table[target](*args, **kwargs)
        if made is NotImplemented:
            made = target(*args, **kwargs)
        return tuple(made) if isinstance(made, tuple) else made  # a named one would be an operator of its own

    fake = next((n.meta["val"].fake_mode for n in (*nodes, node) if hasattr(n.meta.get("val"), "fake_mode")), None)
    if fake is None:
        return None
    # Composite operators compute in place inside, as `rms_norm` adds its epsilon: torch's forms of that would copy.
    functional = {target: write for target, write in table.items() if not target._schema.is_mutable}
    with fake:
        graph = make_fx(call, functional, _allow_non_fake_inputs=True)(*(n.meta["val"] for n in nodes)).graph
    return graph if _is_known(graph) and in_new_values(graph) else None


def _is_known(graph: fx.Graph) -> bool:
    """True if all results are new and distinct, and torch tells the result of every operator."""
    made = graph.output_node().all_input_nodes
    given = graph.output_node().args[0]
    several = len(given) if isinstance(given, list | tuple) else 1
    inside = [n for n in graph.nodes if n.op not in ("placeholder", "output")]
    return len(made) == several and {*made} <= {*inside} and all(n.op != "get_attr" and "val" in n.meta for n in inside)
