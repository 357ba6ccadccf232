"""A loop that does something else from frame to frame, and the same again every so many frames, its period.

    for t in range(x.shape[1]):
        h = first(x[:, t], h) if t % 2 == 0 else second(x[:, t], h)

or whose frame is a piece of so many:

    for start in range(0, x.shape[1], 4):
        y, h = gru(x[:, start : start + 4], h)

Its iterations are alike by whole periods. So in the unrolled graph frames are taken of windows of a period each, and
joined by periods first: of these it is a loop as any other. The last period of a sequence may be short: what fills it
up comes after all frames, and what is made of it is cut off.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping

from torch import Tensor, fx

from rnn_export.export.lift.loops.copies import JOINS
from rnn_export.export.lift.loops.references import Ref, resolve
from rnn_export.export.lift.loops.two_lengths import cannot_roll
from rnn_export.export.lift.loops.written import read_written_frames
from rnn_export.export.lift.program.fx import args_of, aten, named_args
from rnn_export.export.lift.program.node_writer import NodeWriter

# Of nodes: whose frames are filled up, and which are cut, along the axis that is noted.
FILLED, CUT = "rnn_export.filled", "rnn_export.cut"
SPLITS = (aten.split.Tensor, aten.split_with_sizes.default)


def by_periods(module: fx.GraphModule, frames: int, period: int) -> None:
    """In place: a graph unrolled over `frames` frames, whole periods, takes and joins them period by period."""
    read_written_frames(module.graph)
    write = NodeWriter(module, "period")
    for node in list(module.graph.nodes):
        if node.target in JOINS and isinstance(args_of(node)[0], list | tuple) and len(args_of(node)[0]) == frames:
            _join(write, node, period)
        elif _joins_pieces(node, frames, period):
            _cut(write, node)
        for axis, pieces in _pieces(node, frames, period).items():
            _take_pieces(write, node, axis, pieces, period)
        for axis, takes in _taken(node, frames).items():
            _take(write, node, axis, takes, period)
    module.graph.eliminate_dead_code()


def _taken(node: fx.Node, frames: int) -> Mapping[int, dict[fx.Node, Ref]]:
    """By axis of a value, what takes one frame each, where all frames are taken."""
    shape = getattr(node.meta.get("val"), "shape", ())
    found: dict[int, dict[fx.Node, Ref]] = {}
    for user in _readers(node):
        ref = resolve(user)
        if ref.base is node and len(ref.path) == 1 and ref.path[0].kind != "item":
            axis = ref.path[0].axis
            if isinstance(shape[axis], int) and shape[axis] == frames:
                found.setdefault(axis, {})[user] = ref
    return {a: t for a, t in found.items() if {r.path[0].entry % frames for r in t.values()} == {*range(frames)}}


def _pieces(node: fx.Node, frames: int, period: int) -> Mapping[int, dict[fx.Node, int]]:
    """By axis of a value, what takes a whole period each, and which, where all periods are taken."""
    shape = getattr(node.meta.get("val"), "shape", ())
    found: dict[int, dict[fx.Node, int]] = {}
    for user in _readers(node) if period > 1 else ():
        if (piece := _piece(user, node, period)) is not None and shape[piece[0]] == frames:
            found.setdefault(piece[0], {})[user] = piece[1]
    return {a: pieces for a, pieces in found.items() if {*pieces.values()} == {*range(frames // period)}}


def _piece(user: fx.Node, node: fx.Node, period: int) -> tuple[int, int] | None:
    """The axis along which `user` takes a whole period of `node`, and the number of it."""
    if user.target is aten.slice.Tensor and user.args[0] is node:
        given = named_args(user)
        start, end = (0 if given["start"] is None else given["start"]), given["end"]
        if all(type(n) is int for n in (start, end)) and end - start == period and start % period == 0:
            return given["dim"] % len(node.meta["val"].shape), start // period
    parts = user.args[0] if user.target is operator.getitem else None
    if isinstance(parts, fx.Node) and parts.target in SPLITS and parts.args[0] is node:
        given = named_args(parts)
        sizes = given.get("split_sizes", [given.get("split_size")])
        if all(size == period for size in sizes):
            return given["dim"] % len(node.meta["val"].shape), args_of(user)[1]
    return None


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    for user in node.users:
        if user.target in (aten.unbind.int, *SPLITS):
            yield from user.users
        yield user


def windows_of(write: NodeWriter, node: fx.Node, axis: int, period: int) -> fx.Node:
    """(..., periods, ..., period): the frames of `node`, filled up."""
    write.at = node
    with node.graph.inserting_after(node):
        filled = write.call(aten.pad.default, node, [0, 0] * (len(node.meta["val"].shape) - axis))
    filled.meta[FILLED] = axis, period
    with node.graph.inserting_after(filled):
        return write.call(aten.unfold.default, filled, axis, period, period)


def _take_pieces(write: NodeWriter, node: fx.Node, axis: int, pieces: Mapping[fx.Node, int], period: int) -> None:
    """Pieces of `node` become its windows."""
    windows, rank = windows_of(write, node, axis, period), len(node.meta["val"].shape)
    order, places = [*range(axis), rank - 1, *range(axis, rank - 1)], {n: i for i, n in enumerate(node.graph.nodes)}
    for user, number in pieces.items():
        write.at = user
        # Where all of them are taken at once, each belongs to the turn that uses it.
        with node.graph.inserting_before(min(user.users, key=lambda n: places.get(n, 0), default=user)):
            new = write.call(aten.select.int, windows, axis, number)
            new = write.call(aten.permute.default, new, order)
        user.replace_all_uses_with(new)


def _take(write: NodeWriter, node: fx.Node, axis: int, takes: Mapping[fx.Node, Ref], period: int) -> None:
    """Frames of `node` by number become those of its windows."""
    windows, rank = windows_of(write, node, axis, period), len(node.meta["val"].shape)
    for user, ref in takes.items():
        kind, _, frame = ref.path[0]
        write.at = user
        with node.graph.inserting_before(user):
            new = write.call(aten.select.int, windows, axis, frame // period)
            new = write.call(aten.select.int, new, rank - 1, frame % period)
            if kind == "slice":
                new = write.call(aten.unsqueeze.default, new, axis)
        user.replace_all_uses_with(new)


def _join(write: NodeWriter, node: fx.Node, period: int) -> None:
    """What joins all frames joins those of each period, and then these."""
    pieces, dim = list(args_of(node)[0]), args_of(node)[1] if len(node.args) > 1 else 0
    dim %= len(node.meta["val"].shape)
    if not all(isinstance(piece, fx.Node) for piece in pieces):
        return
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    write.at, periods = node, []
    for start in range(0, len(pieces), period):
        some = pieces[start : start + period]
        last = max(some, key=lambda n: order.get(n, -1))
        with node.graph.inserting_after(last):
            periods.append(write.call(node.target, some, dim))
    with node.graph.inserting_before(node):
        joined = write.call(aten.stack.default, periods, dim)
        shape = write.value_of(joined).shape
        sizes = [n if isinstance(n, int) else write.call(aten.sym_size.int, joined, a) for a, n in enumerate(shape)]
        whole = write.call(aten.reshape.default, joined, [*sizes[:dim], -1, *sizes[dim + 2 :]])
    whole.meta[CUT] = dim
    node.replace_all_uses_with(whole)


def _joins_pieces(node: fx.Node, frames: int, period: int) -> bool:
    """Whether a node joins the frames of all periods, each piece one."""
    if node.target is not aten.cat.default or period == 1 or len(args_of(node)[0]) != frames // period:
        return False
    dim = [*args_of(node), 0][1]
    values = [piece.meta.get("val") for piece in args_of(node)[0] if isinstance(piece, fx.Node)]
    return all(isinstance(v, Tensor) and v.shape[dim] == period for v in values)


def _cut(write: NodeWriter, node: fx.Node) -> None:
    """Note that the frames that `node` joins are cut where the sequence ends."""
    dim, value = [*args_of(node), 0][1] % len(node.meta["val"].shape), node.meta["val"]
    write.at = node
    with node.graph.inserting_after(node):
        sizes = [n if isinstance(n, int) else write.call(aten.sym_size.int, node, a) for a, n in enumerate(value.shape)]
    with node.graph.inserting_after(([node, *(n for n in sizes if isinstance(n, fx.Node))])[-1]):
        whole = write.call(aten.reshape.default, node, [*sizes[:dim], -1, *sizes[dim + 1 :]])
    whole.meta[CUT] = dim
    node.replace_all_uses_with(whole, lambda user: user is not whole and user.target is not aten.sym_size.int)


def end_short(module: fx.GraphModule) -> None:
    """In place: a rolled graph of whole periods takes sequences that end in a short one; raises LiftError else."""
    graph, fed = module.graph, None
    for node in list(graph.nodes):
        if FILLED in node.meta:
            axis, period = node.meta[FILLED]
            with graph.inserting_before(node):
                length = graph.call_function(aten.sym_size.int, (node.args[0], axis))
                rest = graph.call_function(operator.mod, (graph.call_function(operator.neg, (length,)), period))
            value, pads = args_of(node)[:2]
            node.args = (value, [*pads[:-1], rest])
            fed = fed or length
        if CUT in node.meta and fed is not None:
            with graph.inserting_after(node):
                cut = graph.call_function(aten.slice.Tensor, (node, node.meta[CUT], 0, fed))
            cut.meta = {key: known for key, known in node.meta.items() if key not in ("val", CUT)}
            node.replace_all_uses_with(cut, lambda user, cut=cut: user is not cut)
    if fed is None:
        raise cannot_roll("its frames are not computed alike")
    graph.lint()
    module.recompile()
