"""How far operators reach over time, seen in a graph before it is run: how long the sequences of its runs must be."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten, overloads

PAD_OR_CUT = overloads("pad constant_pad_nd slice.Tensor")
RESHAPES = overloads("view _unsafe_view reshape expand")


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


def makes_frames(node: fx.Node, given: fx.Node) -> bool:
    """Whether the frames of what `node` makes can be others by what it is given: not by a number of frames that are
    padded or cut off, nor by the number that there are.
    """
    size, source = given.meta.get("val"), next(iter(node.args), None)
    if not isinstance(size, torch.SymInt) or not isinstance(source, fx.Node) or given is source:
        return True
    if node.target in PAD_OR_CUT:
        return False
    known = source.meta.get("val")
    has = isinstance(known, Tensor) and any(str(size) == str(n) for n in known.shape)
    return not (has and node.target in RESHAPES)


def has_a_window_for_each_frame(node: fx.Node) -> bool:
    """Whether `node` gives windows of a value that is padded so that there is one for each frame, however few."""
    if node.target is not aten.unfold.default:
        return False
    padded, dim, size, _ = args_of(node)
    if not isinstance(padded, fx.Node) or padded.target is not aten.constant_pad_nd.default:
        return False
    pads, from_end = args_of(padded)[1], dim if dim < 0 else dim - padded.meta["val"].dim()
    around = pads[-2 * from_end - 2 : -2 * from_end or None]
    return all(type(n) is int for n in around) and sum(around) >= size - 1


def _is_of_any_length(graph: fx.Graph) -> bool:
    """Whether sizes that are numbers are never time: torch.export knows which are not."""
    values = [n.meta.get("val") for n in graph.nodes if n.op == "placeholder"]
    return any(sum(type(size) is not int for size in v.shape) > 1 for v in values if isinstance(v, Tensor))
