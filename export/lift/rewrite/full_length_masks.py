"""Drops masks of frames behind the ends of rows if every row is as long as its tensor."""

from __future__ import annotations

from typing import Any

from torch import fx

from rnn_export.export.lift.ir.dependence.axis_table import MOVING
from rnn_export.export.lift.ir.fx_nodes import args_of, aten, named_args, overloads
from rnn_export.export.lift.ir.node_writer import NodeWriter

# These show the numbers that they take.
VIEWS = MOVING | overloads("_to_copy to.dtype to.dtype_layout to.device")


def _drop_full_mask(write: NodeWriter, node: fx.Node) -> None:
    """Compare 0 with 1, in place, where a frame index is compared with the length of a full row."""
    sides = args_of(node)
    if not all(isinstance(side, fx.Node) for side in sides):
        return
    origins = [_origin(side) for side in sides]
    ends = [_end_of_numbers(origin) for origin in origins]
    fills = [_fill(origin) for origin in origins]
    for i in (0, 1):
        if ends[i] is not None and ends[i] == fills[1 - i]:
            for side, value in ((i, 0), (1 - i, 1)):
                node.update_arg(side, _seen_as(sides[side], origins[side], value))


FULL_MASKS = dict.fromkeys(overloads("lt.Tensor le.Tensor gt.Tensor ge.Tensor"), _drop_full_mask)


def _origin(node: fx.Node) -> fx.Node:
    while node.target in VIEWS and isinstance(node.args[0], fx.Node):
        node = node.all_input_nodes[0]
    return node


def _end_of_numbers(node: fx.Node) -> str | None:
    """The end of a range of frame indices from 0; None for anything else."""
    if node.target not in overloads("arange arange.start arange.start_step"):
        return None
    given = named_args(node)
    return _size(given["end"]) if given.get("start", 0) == 0 and given.get("step", 1) == 1 else None


def _fill(node: fx.Node) -> str | None:
    """The size that a tensor is filled with; None for anything else."""
    return _size(node.args[1]) if node.target is aten.full.default else None


def _size(value: Any) -> str | None:
    return str(value.meta["val"]) if isinstance(value, fx.Node) else None


def _seen_as(node: fx.Node, origin: fx.Node, value: int) -> fx.Node:
    """`node`, a view of `origin`, filled with `value`."""
    graph = node.graph
    if node is not origin:
        seen = _seen_as(node.all_input_nodes[0], origin, value)
        with graph.inserting_after(node):
            return graph.node_copy(node, lambda n: seen if n is node.all_input_nodes[0] else n)
    sizes = origin.args[0] if origin.target is aten.full.default else [named_args(origin)["end"]]
    with graph.inserting_after(node):
        made = graph.call_function(aten.full.default, (sizes, value), {"dtype": node.meta["val"].dtype})
    made.meta = dict(node.meta)
    return made
