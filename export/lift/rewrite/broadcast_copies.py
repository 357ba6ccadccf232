"""Writes repetition along an axis of size 1, such as of a vector that all frames get, as `expand`."""

from __future__ import annotations

from typing import Any

from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten, named_args, overloads
from rnn_export.export.lift.ir.node_writer import NodeWriter


def _as_expand(write: NodeWriter, node: fx.Node) -> None:
    """Make repetitions of axes of size 1 an `expand`, which copies nothing and has no size to be bounded."""
    if (sizes := _expanded(node)) is not None:
        node.target, node.args, node.kwargs = aten.expand.default, (node.all_input_nodes[0], sizes), {}


BROADCAST_COPIES = dict.fromkeys(overloads("repeat tile repeat_interleave.self_int"), _as_expand)


def _expanded(node: fx.Node) -> list[Any] | None:
    """The sizes for `expand`, -1 for those that stay; None if an axis of more entries is repeated."""
    given = named_args(node) | node.kwargs
    shape, times = given["self"].meta["val"].shape, _times(node, given)
    if times is None:
        return None
    new = len(times) - len(shape)
    stay = [isinstance(n, int) and n == 1 for n in times[new:]]
    if not all(stays or (isinstance(size, int) and size == 1) for stays, size in zip(stay, shape, strict=True)):
        return None
    return [*times[:new], *(-1 if stays else n for stays, n in zip(stay, times[new:], strict=True))]


def _times(node: fx.Node, given: dict[str, Any]) -> list[Any] | None:
    """The repetitions of each axis, new ones in front."""
    rank = given["self"].meta["val"].dim()
    if node.target is aten.repeat_interleave.self_int:
        axis = given["dim"]
        return None if axis is None else [given["repeats"] if a == axis % rank else 1 for a in range(rank)]
    times = list(given["repeats" if node.target is aten.repeat.default else "dims"])
    return [1] * (rank - len(times)) + times
