"""Resolves selection by masks with constant values: `torch.where(ones(batch) & ..., x[..., :1], before)`."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.dependence.axis_table import MOVING, is_pointwise
from rnn_export.export.lift.ir.fx_nodes import args_of, aten, overloads
from rnn_export.export.lift.ir.node_writer import NodeWriter

FILLED = {
    **dict.fromkeys(overloads("ones ones_like new_ones"), True),
    **dict.fromkeys(overloads("zeros zeros_like new_zeros"), False),
}


def _chosen(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The selected value, if all entries of the mask are known."""
    mask, *branches = args_of(node)
    known = _known(mask)
    chosen = None if known is None else branches[0 if known else 1]
    return _in_shape_of(write.graph, node, chosen) if isinstance(chosen, fx.Node) else None


CONSTANT_MASKS = {aten.where.self: _chosen}


def _known(mask: object) -> bool | None:
    """The value of all entries of a mask; None if they depend on inputs, or may differ."""
    if not isinstance(mask, fx.Node) or _is_no_mask(mask):
        return None
    if mask.target in FILLED:
        return FILLED[mask.target]
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
