"""The reach of operators over time, read from a graph to choose the length of the sequences that it is run on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten, overloads

PAD_OR_CUT = overloads("pad constant_pad_nd slice.Tensor")
RESHAPES = overloads("reshape expand")


class Reach(NamedTuple):
    """The reach of one result of an operator: at most `frames` frames more, taken every `stride`."""

    frames: int = 0
    stride: int = 1


def may_be_time(value: Any, axis: int) -> bool:
    """True if an axis of a value, which may count from the end, can be time, or hold frames of it."""
    if not isinstance(value, fx.Node):
        return False
    known = value.meta.get("val")
    if not isinstance(known, Tensor) or not -known.dim() <= axis < known.dim():
        return True
    return type(known.shape[axis]) is not int or not _is_of_any_length(value.graph)


def makes_frames(node: fx.Node, given: fx.Node) -> bool:
    """True if the argument `given` can change the frames of the result of `node`.

    A number of frames to pad or cut cannot, nor can the value's number of frames.
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
    """True if `node` gives windows of a value that is padded so that each frame has one, however few."""
    if node.target is not aten.unfold.default:
        return False
    padded, dim, size, _ = args_of(node)
    if not isinstance(padded, fx.Node) or padded.target is not aten.constant_pad_nd.default:
        return False
    pads, from_end = args_of(padded)[1], dim if dim < 0 else dim - padded.meta["val"].dim()
    around = pads[-2 * from_end - 2 : -2 * from_end or None]
    return all(type(n) is int for n in around) and sum(around) >= size - 1


def _is_of_any_length(graph: fx.Graph) -> bool:
    """True if time has a symbolic size, so that integers are never time."""
    values = [n.meta.get("val") for n in graph.nodes if n.op == "placeholder"]
    return any(sum(type(size) is not int for size in v.shape) > 1 for v in values if isinstance(v, Tensor))
