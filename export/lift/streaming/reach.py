"""How far operators reach over time, seen in a graph before it is run: how long the sequences of its runs must be."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, fx


class Reach(NamedTuple):
    """How far one result of an operator reaches: over so many frames, taken every `stride`; at least as many."""

    frames: int = 0
    stride: int = 1


def may_be_time(value: Any, axis: int) -> bool:
    """Whether the axis of a value, which may count from the end, can be time, or hold frames of it."""
    if not isinstance(value, fx.Node):
        return False
    known = value.meta.get("val")
    if not isinstance(known, Tensor) or not -known.dim() <= axis < known.dim():
        return True
    return type(known.shape[axis]) is not int or not _is_of_any_length(value.graph)


def _is_of_any_length(graph: fx.Graph) -> bool:
    """Whether sizes that are numbers are never time: torch.export knows which are not."""
    values = [n.meta.get("val") for n in graph.nodes if n.op == "placeholder"]
    return any(sum(type(size) is not int for size in v.shape) > 1 for v in values if isinstance(v, Tensor))
