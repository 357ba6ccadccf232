"""Assignment to a part of a value (`x[..., :n] = y`) as a new value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from rnn_export.export.lift.ir.fx_nodes import aten, named_args
from rnn_export.export.lift.trace.aliases import is_new

SCATTERS = {aten.slice.Tensor: aten.slice_scatter.default, aten.select.int: aten.select_scatter.default}


def written_over(node: fx.Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]] | None:
    """The scatter for a `copy_` to a part of a new value; None if more nodes may see it.

    Later users of the value then take `node`.
    """
    given = named_args(node)
    part, written = given["self"], given["src"]
    if node.users or not isinstance(written, fx.Node) or not _alike(part, written):
        return None
    chain = [part]
    while chain[-1].target in SCATTERS:
        chain.append(chain[-1].args[0])
    whole = chain[-1]
    if len(chain) == 1 or not is_new(whole):
        return None
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    later = [n for n in whole.users if order[n] > order[node]]
    seen = [n for n in _parts(whole) if order[n] < order[node]]
    if any(order[user] > order[node] for n in seen for user in n.users):
        return None
    call: Any = None
    for outer, inner in zip(chain[1:], chain, strict=False):
        if call is not None:
            written = _inserted(node, call, inner)
        call = SCATTERS[inner.target], (outer, written, *inner.args[1:]), dict(inner.kwargs)
    node.meta = {**node.meta, "val": whole.meta["val"]}
    for user in later:
        user.replace_input_with(whole, node)
    return call  # type: ignore[no-any-return]


def _alike(part: fx.Node, written: fx.Node) -> bool:
    here, there = part.meta["val"], written.meta["val"]
    return here.dtype == there.dtype and [*map(str, here.shape)] == [*map(str, there.shape)]


def _parts(whole: fx.Node) -> Iterator[fx.Node]:
    """The values that may be views of `whole`."""
    for user in whole.users:
        if not is_new(user):
            yield user
            yield from _parts(user)


def _inserted(node: fx.Node, call: Any, like: fx.Node) -> fx.Node:
    with node.graph.inserting_before(node):
        made = node.graph.call_function(*call)
    made.meta = {**node.meta, "val": like.meta["val"]}
    return made
