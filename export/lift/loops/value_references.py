"""A reference to a value of a graph: a node and the parts taken of it, such as an item of several results, a frame."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten


class Part(NamedTuple):
    """One part: `value[entry]` ("item"), or one entry of `axis`, which goes ("select") or has size 1 ("slice")."""

    kind: Literal["item", "select", "slice"]
    axis: int
    entry: int


Path = tuple[Part, ...]
# What takes several parts at once.
SEGMENTS = (aten.unbind.int, aten.split.Tensor, aten.slice.Tensor)


@dataclass(frozen=True)
class Ref:
    """The value that `path` takes, part by part, of the result of `base`."""

    base: fx.Node
    path: Path = ()

    def part(self, kind: Literal["item", "select", "slice"], axis: int, entry: int) -> Ref:
        return Ref(self.base, (*self.path, Part(kind, axis, entry)))


def resolve(node: fx.Node) -> Ref:
    """The value of `node`, seen through nodes that only take a part."""
    if node.target is operator.getitem:
        inner, index = args_of(node)
        assert isinstance(inner, fx.Node)
        source = inner.args[0] if inner.args else None
        if isinstance(source, fx.Node) and inner.target is aten.unbind.int:
            return _entry(source, "select", _axis(inner, 1), index)
        if isinstance(source, fx.Node) and inner.target is aten.split.Tensor and inner.args[1] == 1:
            return _entry(source, "slice", _axis(inner, 2), index)
        return Ref(inner).part("item", 0, index)
    if node.target is aten.select.int and isinstance(args_of(node)[2], int):
        return _entry(args_of(node)[0], "select", _axis(node, 1), args_of(node)[2])
    if node.target is aten.slice.Tensor and len(node.args) == 4 and all(isinstance(a, int) for a in args_of(node)[1:]):
        start, end = args_of(node)[2:]
        if end - start == 1:
            return _entry(args_of(node)[0], "slice", _axis(node, 1), start)
    return Ref(node)


def _entry(value: fx.Node, kind: Literal["select", "slice"], axis: int, entry: int) -> Ref:
    """One entry of `axis`, of the tensor that `value` is a slice of, if any."""
    while entry >= 0 and (start := _cut_from(value, axis)) is not None:
        value, entry = args_of(value)[0], entry + start
    return resolve(value).part(kind, axis, entry)


def _cut_from(node: fx.Node, axis: int) -> int | None:
    """The start of the slice with step 1 that `node` takes along `axis`; None for any other node."""
    if node.target is not aten.slice.Tensor or _axis(node, 1) != axis or len(node.args) == 5:
        return None
    start = [*args_of(node), 0, 0][2] or 0
    return start if type(start) is int and start >= 0 else None


def _axis(node: fx.Node, position: int) -> int:
    """The axis that the argument at `position` names, 0 without it, counted from the front."""
    axis: Any = node.args[position] if len(node.args) > position else 0
    return int(axis) % len(args_of(node)[0].meta["val"].shape)


def only_takes(node: fx.Node) -> bool:
    """True if `node` only takes parts of a value, and so has no place in a body."""
    return resolve(node).base is not node or (
        node.target in SEGMENTS and bool(node.users) and all(_is_seen_through(user, node) for user in node.users)
    )


def _is_seen_through(user: fx.Node, segment: fx.Node) -> bool:
    """True if all that `user` takes of `segment` is a part of the tensor that `segment` is taken from."""
    return resolve(user).base not in (user, segment) or (only_takes(user) and user.target in SEGMENTS)


def value_at(value: Any, path: Path) -> Any:
    """The part `path` of a value."""
    for kind, axis, entry in path:
        if kind == "item":
            value = value[entry]
        else:
            taken = (aten.select.int, (entry,)) if kind == "select" else (aten.slice.Tensor, (entry, entry + 1))
            value = taken[0](value, axis, *taken[1])
    return value


def node_at(graph: fx.Graph, node: fx.Node, path: Path) -> fx.Node:
    """`value_at` in `graph`, at its insertion point."""
    for kind, axis, entry in path:
        meta = {key: known for key, known in node.meta.items() if key != "val"}
        if kind == "item":
            node = graph.call_function(operator.getitem, (node, entry))
        elif kind == "select":
            node = graph.call_function(aten.select.int, (node, axis, entry))
        else:
            node = graph.call_function(aten.slice.Tensor, (node, axis, entry, entry + 1))
        node.meta = meta
    return node
