"""Rules for values that are constant whatever the input: filled tensors, and masks that are all true or all false."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._sympy.functions import FloorDiv

from rnn_export.export.lift.ir.dependence.axis_table import MOVING, is_pointwise
from rnn_export.export.lift.ir.fx_nodes import args_of, aten, named_args, overloads, placeholders, size_of
from rnn_export.export.lift.ir.node_writer import NodeWriter

LIKE_ANOTHER = overloads("new_zeros new_ones new_full new_empty")
NEW_FILLED = LIKE_ANOTHER | overloads("full zeros_like ones_like full_like empty_like")
# What they fill a tensor with, whatever was in it: a number, or the argument that says it.
FILLS: Mapping[Any, float | str] = {
    **dict.fromkeys(overloads("new_zeros zeros_like zero new_empty empty_like"), 0),
    **dict.fromkeys(overloads("new_ones ones_like"), 1),
    **dict.fromkeys(overloads("fill.Scalar fill.Tensor"), "value"),
    **dict.fromkeys(overloads("copy"), "src"),
    **dict.fromkeys(overloads("full_like new_full full"), "fill_value"),
}
# These show the numbers that they take.
VIEWS = MOVING | overloads("_to_copy to.dtype to.dtype_layout to.device")


def fill_of(node: fx.Node) -> Any:
    """The number, or the node, that a tensor is filled with; None for any other value."""
    fill = FILLS.get(node.target)
    return (named_args(node) | node.kwargs)[fill] if isinstance(fill, str) else fill


# --- filled tensors


def _filled(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """A fill in the shape of another tensor as a fill of sizes, where these are sizes of inputs or given."""
    graph, shape, value = write.graph, node.meta["val"].shape, fill_of(node)
    if node.target in LIKE_ANOTHER:
        _read_sizes_from_source(graph, node)
    sizes = {str(n): fed for fed in placeholders(graph) for n in fed.meta["val"].shape}
    named = node.target in LIKE_ANOTHER and all(isinstance(n, int) or _is_of_one_axis(n) for n in shape)
    if not (named or all(isinstance(n, int) or str(n) in sizes for n in shape)):
        return None
    dtype = {"dtype": node.meta["val"].dtype}
    dims = [*args_of(node)[1]] if named else [n if isinstance(n, int) else size_of(sizes[str(n)], n) for n in shape]
    if not isinstance(value, fx.Node) or not isinstance(value.meta["val"], Tensor):
        filled = graph.call_function(aten.full.default, (dims, value), dtype)
    else:
        if value.meta["val"].dtype != dtype["dtype"]:
            given, value = value.meta, graph.call_function(aten._to_copy.default, (value,), dtype)
            value.meta = {**given, "val": given["val"].to(**dtype)}
        filled = graph.call_function(aten.expand.default, (value, dims))
    filled.meta = dict(node.meta)
    return filled


def _read_sizes_from_source(graph: fx.Graph, node: fx.Node) -> None:
    """Read the count of windows in the size of a new tensor from its source, if that has such an axis.

    As an expression of the input's length it is that of a whole sequence, and not of a segment.
    """
    source, sizes = args_of(node)[:2]
    axes = {str(size): a for a, size in enumerate(source.meta["val"].shape) if isinstance(size, torch.SymInt)}
    for place, size in enumerate(sizes):
        axis = axes.get(str(size.meta.get("val"))) if isinstance(size, fx.Node) else None
        if axis is None or not size.meta["val"].node.expr.has(FloorDiv):
            continue
        asked = graph.call_function(aten.sym_size.int, (source, axis))
        asked.meta = {**node.meta, "val": size.meta["val"]}
        sizes = [*sizes[:place], asked, *sizes[place + 1 :]]
    node.update_arg(1, sizes)


def _is_of_one_axis(size: torch.SymInt) -> bool:
    """True if a size depends on one symbol: a product of frames and rows gives the place of both."""
    return len(size.node.expr.free_symbols) == 1


# --- masks with constant values: `torch.where(ones(batch) & ..., x[..., :1], before)`


def _chosen(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The selected value, if all entries of the mask are known."""
    mask, *branches = args_of(node)
    known = _known(mask)
    chosen = None if known is None else branches[0 if known else 1]
    return _in_shape_of(write.graph, node, chosen) if isinstance(chosen, fx.Node) else None


def _known(mask: object) -> bool | None:
    """The value of all entries of a mask; None if they depend on inputs, or may differ."""
    if not isinstance(mask, fx.Node) or _is_no_mask(mask):
        return None
    if isinstance(filled := fill_of(mask), int | float):
        return bool(filled)
    if mask.target in MOVING:
        return _known(mask.args[0])
    if not is_pointwise(mask.target) or any(_is_no_mask(side) for side in (*mask.args, *mask.kwargs)):
        return None
    # What it gives for both values of each side that is not known.
    sides = [(True, False) if (known := _known(side)) is None else (known,) for side in mask.args]
    operate: Any = mask.target
    found = {bool(operate(*map(torch.tensor, values))) for values in product(*sides)}
    return found.pop() if len(found) == 1 else None


def _is_no_mask(value: object) -> bool:
    known = value.meta.get("val") if isinstance(value, fx.Node) else None
    return not isinstance(known, Tensor) or known.dtype != torch.bool


def _in_shape_of(graph: fx.Graph, node: fx.Node, value: fx.Node) -> fx.Node | None:
    """`value` in the shape of `node`; None if its type differs, or a size is unknown here."""
    here, there = value.meta["val"], node.meta["val"]
    if here.dtype != there.dtype:
        return None
    given = [1] * (there.dim() - here.dim()) + list(here.shape)
    sizes = [-1 if str(a) == str(b) else b for a, b in zip(given, there.shape, strict=True)]
    if all(size == -1 for size in sizes) and here.dim() == there.dim():
        return value
    if any(not isinstance(size, int) for size in sizes) or -1 in sizes[: there.dim() - here.dim()]:
        return None
    spread = graph.call_function(aten.expand.default, (value, sizes))
    spread.meta = dict(node.meta)
    return spread


# --- masks of frames behind the ends of rows, where every row is as long as its tensor


def _drop_full_mask(write: NodeWriter, node: fx.Node) -> None:
    """Compare 0 with 1, in place, where a frame index is compared with the length of a full row."""
    sides = args_of(node)
    if not all(isinstance(side, fx.Node) for side in sides):
        return
    origins = [_origin(side) for side in sides]
    ends = [_end_of_numbers(origin) for origin in origins]
    fills = [_size(origin.args[1]) if origin.target is aten.full.default else None for origin in origins]
    for i in (0, 1):
        if ends[i] is not None and ends[i] == fills[1 - i]:
            for side, value in ((i, 0), (1 - i, 1)):
                node.update_arg(side, _seen_as(sides[side], origins[side], value))


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


CONSTANTS = {
    **dict.fromkeys(FILLS.keys() - {aten.full.default}, _filled),
    **dict.fromkeys(overloads("lt.Tensor le.Tensor gt.Tensor ge.Tensor"), _drop_full_mask),
    aten.where.self: _chosen,
}
