"""Makes tensors that are filled in the shape of another one independent of its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten, named_args, overloads, placeholders, size_of
from rnn_export.export.lift.ir.node_writer import NodeWriter

LIKE_ANOTHER = overloads("new_zeros new_ones new_full new_empty")
# What they fill a tensor with, whatever was in it: a number, or the argument that says it.
FILLS: Mapping[Any, float | str] = {
    **dict.fromkeys(overloads("new_zeros zeros_like zero"), 0),
    **dict.fromkeys(overloads("new_ones ones_like"), 1),
    **dict.fromkeys(overloads("fill.Scalar fill.Tensor"), "value"),
    **dict.fromkeys(overloads("copy"), "src"),
    **dict.fromkeys(overloads("full_like new_full"), "fill_value"),
}


def _filled(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """A fill in the shape of another tensor as a fill of sizes, where these are sizes of inputs or given."""
    graph, shape, fill = write.graph, node.meta["val"].shape, FILLS[node.target]
    sizes = {str(n): fed for fed in placeholders(graph) for n in fed.meta["val"].shape}
    value: Any = (named_args(node) | node.kwargs)[fill] if isinstance(fill, str) else fill
    named = node.target in LIKE_ANOTHER and all(isinstance(n, int) or _is_of_one_axis(n) for n in shape)
    if not (named or all(isinstance(n, int) or str(n) in sizes for n in shape)):
        return None
    dtype = {"dtype": node.meta["val"].dtype}
    dims = [*args_of(node)[1]] if named else [n if isinstance(n, int) else size_of(sizes[str(n)], n) for n in shape]
    if not isinstance(value, fx.Node):
        filled = graph.call_function(aten.full.default, (dims, value), dtype)
    else:
        if value.meta["val"].dtype != dtype["dtype"]:
            given, value = value.meta, graph.call_function(aten._to_copy.default, (value,), dtype)
            value.meta = {**given, "val": given["val"].to(**dtype)}
        filled = graph.call_function(aten.expand.default, (value, dims))
    filled.meta = dict(node.meta)
    return filled


def _is_of_one_axis(size: torch.SymInt) -> bool:
    """True if a size depends on one symbol: a product of frames and rows gives the place of both."""
    return len(size.node.expr.free_symbols) == 1


CONSTANT_FILLS = dict.fromkeys(FILLS, _filled)
