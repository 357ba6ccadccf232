"""Follows frames or rows through operators that only move entries, by one call on their indices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout

# What an entry has that is of no cell.
OF_NONE = -1


def numbered(value: Tensor, layout: AxisLayout | None) -> Tensor:
    """The frame or row index of each entry, in the shape of `value`."""
    if layout is None:
        return torch.full(value.shape, OF_NONE)
    indices = layout.indices_in(value)
    sizes = [indices if axis == layout.axis + 1 else 1 for axis in range(value.dim() + 2)]
    return torch.arange(indices).reshape(sizes).expand_as(layout.split(value)).reshape(value.shape).contiguous()


def indices_of_results(
    node: fx.Node, values: Mapping[fx.Node, Any], layouts: Mapping[fx.Node, AxisLayout | None]
) -> list[Tensor]:
    """The frame or row index of each entry, by result of `node`, one of `MOVING`."""
    given = {n: numbered(values[n], layout) for n, layout in layouts.items()}
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: given[n] if n in given else values[n])
    assert callable(node.target)
    with torch.no_grad():
        results = node.target(*args, **kwargs)
    return [results] if isinstance(results, Tensor) else list(results)


def stay(found: Tensor, layout: AxisLayout) -> bool:
    """True if each entry of a result with layout `layout` is of its own index, or of none."""
    return bool(((found == OF_NONE) | (found == numbered(found, layout))).all())
