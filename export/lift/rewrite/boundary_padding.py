"""Joins of a sequence with its own frames: boundary padding by replication or reflection, and first frames.

    cat([x[:1], x[1:] - 0.97 * x[:-1]])      the first frame is another value, selected by its index
    cat([x[:1].expand(k, ...), x])           padding by replication
    cat([x[1 : k + 1].flip(0), x])           padding by reflection
    diff(x, prepend=x[:1])                   a difference of such

A slice that begins, or ends, as a sequence does may stand for it: `x[:-1]` before, `x[1:]` behind.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import END, aten, named_args, overloads
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.symbolic_integers import size_at
from rnn_export.export.lift.ir.takes import take_of
from rnn_export.export.lift.rewrite.resampling import padded

REPEATING = overloads("expand repeat clone")
# Frames from which on a rest is seen, more than it is, and from one of those seen to the next.
SEEN, MOST, STRIDE = 1 << 16, 1 << 10, 17


def edged(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """The join `node` as padding or selection; None if it joins anything else."""
    given = named_args(node)
    parts, shape = list(given["tensors"]), write.value_of(node).shape
    axis = given["dim"] % len(shape)
    if isinstance(shape[axis], int) or len(shape) == 1:
        return None
    moving = [i for i, n in enumerate(parts) if not isinstance(write.value_of(n).shape[axis], int)]
    if len(moving) != 1:
        return None
    front, (value, *back) = parts[: moving[0]], parts[moving[0] :]
    before, behind = (_ends(write, side, value, axis, first) for side, first in ((front, True), (back, False)))
    if before is not None or behind is not None:
        return _padded(write, (front, before), value, (back, behind), axis)
    if len(front) == 1 and not back:
        return _begun(write, front[0], value, axis, node)
    return None


def _padded(
    write: NodeWriter,
    front: tuple[Sequence[fx.Node], tuple[str, int] | None],
    value: fx.Node,
    back: tuple[Sequence[fx.Node], tuple[str, int] | None],
    axis: int,
) -> fx.Node:
    """Pad the sides with a known mode, and join the parts at others."""
    after = 2 * (len(write.value_of(value).shape) - axis - 1)
    known = [(front[1], 0), (back[1], 1)]
    for mode in dict.fromkeys(end[0] for end, _ in known if end is not None):
        pads = [0] * (after + 2)
        for end, side in known:
            if end is not None and end[0] == mode:
                pads[after + side] = end[1]
        value = padded(write, value, axis, pads, mode)
    parts = [*(front[0] if front[1] is None else ()), value, *(back[0] if back[1] is None else ())]
    return write.call(aten.cat.default, parts, axis) if len(parts) > 1 else value


def _ends(
    write: NodeWriter, parts: Sequence[fx.Node], value: fx.Node, axis: int, first: bool
) -> tuple[str, int] | None:
    """The mode and the count in which `parts` pad `value` at its start or end; None for others."""
    if not parts:
        return None
    sources = [value, *_cut_at_other_end(value, axis, first)]
    sizes = [write.value_of(n).shape[axis] for n in parts]
    flipped = take_of(parts[0])
    turned = flipped.source if flipped is not None and flipped.step == -1 and flipped.axis == axis else None
    # One frame turned is that frame.
    count, mirror = sizes[0], parts[0] if sizes[0] == 1 and turned is None else turned
    if len(parts) == 1 and _cut_of(mirror, [value], axis) == ((1, count + 1) if first else (-count - 1, -1)):
        return "reflect", count
    for part in parts:
        while part.target in REPEATING:
            (part,) = part.all_input_nodes[:1]
        if _cut_of(part, sources, axis) != ((0, 1) if first else (-1, END)):
            return None
    return "replicate", sum(sizes)


def _cut_at_other_end(value: fx.Node, axis: int, first: bool) -> list[fx.Node]:
    """The source of a slice `value` that begins, or ends, as it does."""
    take = take_of(value)
    cut = None if take is None else _cut_of(value, [take.source], axis)
    return [take.source] if take and cut and (cut[0] == 0 if first else cut[1] == END) else []


def _cut_of(node: object, sources: Sequence[fx.Node], axis: int) -> tuple[int, int] | None:
    """The start and end of `node` as a slice of one of `sources`; None for anything else."""
    take = take_of(node)
    if take is None or take.source not in sources or take.axis != axis or take.drops_axis:
        return None
    return take.bounds


def _begun(write: NodeWriter, front: fx.Node, value: fx.Node, axis: int, node: fx.Node) -> fx.Node | None:
    """`value` behind the first frames of a sequence as long as the result."""
    if (take := take_of(front)) is None:
        return None
    whole, shape = take.source, write.value_of(node).shape
    cut, sizes = _cut_of(front, [whole], axis), write.value_of(whole).shape
    if cut is None or cut[0] != 0 or not 0 < cut[1] < END or not isinstance(sizes[axis], torch.SymInt):
        return None
    if len(sizes) != len(shape) or sizes[axis].node.expr != shape[axis].node.expr:
        return None
    later = write.call(aten.constant_pad_nd.default, value, [0, 0] * (len(shape) - axis - 1) + [cut[1], 0])
    numbers = write.call(aten.arange.default, write.call(aten.sym_size.int, whole, axis))
    places = write.call(aten.reshape.default, numbers, [-1, *[1] * (len(shape) - 1 - axis)])
    return write.call(aten.where.self, write.call(aten.ge.Scalar, places, cut[1]), later, whole)


def difference(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """torch.diff of numbers along a symbolic axis: each frame less the one before."""
    given = named_args(node)
    value = given["self"]
    axis = given["dim"] % write.value_of(value).dim()
    if isinstance(write.value_of(value).shape[axis], int) or write.value_of(value).dtype == torch.bool:
        return None
    ends = [n for n in (given.get("prepend"), value, given.get("append")) if n is not None]
    if len(ends) > 1:
        joined = write.call(aten.cat.default, ends, axis)
        value = edged(write, joined) or joined
    assert isinstance(value, fx.Node)
    for _ in range(given["n"]):
        later, earlier = (write.call(aten.slice.Tensor, value, axis, *cut) for cut in ((1, END), (0, -1)))
        value = write.call(aten.sub.Tensor, later, earlier)
    return value


def ended(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """`x[:-rest]`, of a remainder of the length, as `x[:length - rest]`: all of `x` without a remainder."""
    given = named_args(node)
    end, value = given["end"], given["self"]
    known = write.value_of(end) if isinstance(end, fx.Node) else None
    if not isinstance(known, torch.SymInt) or given["step"] != 1 or not _is_rest(known):
        return None
    size = write.call(aten.sym_size.int, value, given["dim"] % write.value_of(value).dim())
    end = write.call(operator.add, size, end)
    return write.call(aten.slice.Tensor, value, given["dim"], given["start"], end)


def _is_rest(end: torch.SymInt) -> bool:
    """True if an end is bounded, never above 0, and below it at times."""
    ends = [size_at(end, frames) for frames in range(SEEN, SEEN + MOST, STRIDE)]
    return any(ends) and all(n is not None and -MOST < n <= 0 for n in ends)
