"""A reference to a value of a graph: a node and the parts taken of it, such as an item of several results, a frame."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import fx

from rnn_export.export.lift.ir.fx_nodes import args_of, aten
from rnn_export.export.lift.ir.takes import SPLITS, Take, take_of


class Part(NamedTuple):
    """One part: `value[entry]` ("item"), or one entry of `axis`, which goes ("select") or has size 1 ("slice")."""

    kind: Literal["item", "select", "slice"]
    axis: int
    entry: int


Path = tuple[Part, ...]
# What takes several parts at once.
SEGMENTS = SPLITS | {aten.unbind.int, aten.slice.Tensor}


@dataclass(frozen=True)
class Ref:
    """The value that `path` takes, part by part, of the result of `base`."""

    base: fx.Node
    path: Path = ()

    def part(self, kind: Literal["item", "select", "slice"], axis: int, entry: int) -> Ref:
        return Ref(self.base, (*self.path, Part(kind, axis, entry)))


def resolve(node: fx.Node) -> Ref:
    """The value of `node`, seen through nodes that only take a part."""
    take = take_of(node)
    if take is not None and take.entry is not None:
        return _entry(take, take.entry)
    if node.target is operator.getitem:
        inner, index = args_of(node)
        return Ref(inner).part("item", 0, index)
    return Ref(node)


def _entry(take: Take, entry: int) -> Ref:
    """One entry of an axis, of the tensor that its source is a slice of, if any."""
    value = take.source
    while entry >= 0 and (cut := take_of(value)) is not None and cut.axis == take.axis and not cut.drops_axis:
        if cut.bounds is None or cut.start < 0:
            break
        value, entry = cut.source, entry + cut.start
    return resolve(value).part("select" if take.drops_axis else "slice", take.axis, entry)


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
