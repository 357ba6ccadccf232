"""Store-to-load forwarding for frames in one tensor: a reader takes the frames that were stored.

Frames are stored by `out[:, t] = y` or `state[k] = h`, or joined behind initial values, `[h0, h1, ...]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from rnn_export.export.lift.ir.fx_nodes import END, args_of, aten
from rnn_export.export.lift.ir.takes import take_of
from rnn_export.export.lift.loops.value_references import resolve

# How the pieces that each of these writes are put together.
WRITES: dict[Any, Any] = {
    aten.select_scatter.default: aten.stack.default,
    aten.slice_scatter.default: aten.cat.default,
}


@dataclass(frozen=True)
class _Written:
    """A tensor after some frames along `dim` were written in the same way: `base` before that."""

    base: fx.Node
    dim: int
    join: Any
    frames: Mapping[int, fx.Node]

    def has(self, start: int, end: int) -> bool:
        return all(i in self.frames for i in range(start, end))

    def segments(self, start: int, end: int, meta: dict[str, Any]) -> list[fx.Node]:
        """The frames from `start` to `end`, at the graph's insertion point; unwritten ones are filled as in `base`.

        `meta` is that of the written tensor.
        """
        return [self.frames.get(i) or self._fill(meta) for i in range(start, end)]

    def _fill(self, meta: dict[str, Any]) -> fx.Node:
        target: Any = self.base.target
        size = [] if self.join is aten.stack.default else [1]
        arguments = _filling(self.base, self.dim, size)
        new = self.base.graph.call_function(target, arguments, self.base.kwargs)
        value = meta["val"].narrow(self.dim, 0, 1)
        new.meta = {**meta, "val": value if size else value.squeeze(self.dim)}
        return new


def read_written_frames(graph: fx.Graph) -> None:
    """Let each reader of a tensor written frame by frame take the stored frame, or the value before it."""
    _see_through_views(graph)
    _join_segments(graph)
    written: dict[fx.Node, _Written] = {}
    for node in list(graph.nodes):
        if node.target is aten.select.int and args_of(node)[0].target is aten.full.default:
            _fill_entry(node)
        elif (found := _filled(node) or _joined(node) or _written_by(node, written)) is not None:
            written[node] = found
            for user in list(node.users):
                _read(graph, node, user, found)
    graph.eliminate_dead_code()


def _see_through_views(graph: fx.Graph) -> None:
    """Cancel moves of axes there and back, and select frames of a written tensor in place of `unbind`.

    Equal moves of the axes of a written tensor become one.
    """
    bases = {node.args[0] for node in graph.nodes if node.target in WRITES}
    to_move = {(n.args[0], _axes_of(n)) for n in bases if isinstance(n, fx.Node) and _axes_of(n) is not None}
    moved: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            continue
        if (back := _axes_of(node)) is not None:
            there = _axes_of(source)
            if there is not None and [there[axis] for axis in back] == [*range(len(there))]:
                node.replace_all_uses_with(args_of(source)[0])
            elif (source, back) in to_move:
                node.replace_all_uses_with(moved.setdefault((source, back), node))
        elif (take := take_of(node)) is not None and take.drops_axis and take.source.target in WRITES:
            node.target, node.args = aten.select.int, (take.source, take.axis, take.start)


def _join_segments(graph: fx.Graph) -> None:
    """Join segments of several frames that are written one behind the other, and fill a tensor."""
    for node in reversed(graph.nodes):
        written, base, dim = dict[int, tuple[int, fx.Node]](), node, None
        while base.target is aten.slice_scatter.default and len(args_of(base)) == 5:
            base, segment, axis, start, end = args_of(base)
            size = node.meta["val"].shape[axis]
            known = type(start) is type(end) is type(size) is int
            if not known or start in written or dim not in (None, axis):
                break
            dim, written[start] = axis, (min(end, size), segment)
        if base.target is not aten.full.default or all(end - start < 2 for start, (end, _) in written.items()):
            continue
        bounds = sorted((start, end) for start, (end, _) in written.items())
        if bounds[0][0] == 0 and bounds[-1][1] == size and all(a[1] == b[0] for a, b in itertools.pairwise(bounds)):
            with graph.inserting_before(node):
                joined = graph.call_function(aten.cat.default, ([written[start][1] for start, _ in bounds], dim))
            joined.meta = dict(node.meta)
            node.replace_all_uses_with(joined)


def _axes_of(node: fx.Node) -> tuple[int, ...] | None:
    """By axis of the result of `node`, the axis of its argument; None if it does more than permute axes."""
    if node.target is not aten.permute.default:
        return None
    order = args_of(node)[1]
    return tuple(axis % len(order) for axis in order)


def _written_by(node: fx.Node, before: Mapping[fx.Node, _Written]) -> _Written | None:
    """The frames written along one axis up to `node`; None if it writes several frames, or is no write."""
    if node.target is aten.select.int and (whole := before.get(args_of(node)[0])) is not None:
        return _entry_of(node, whole)
    if node.target not in WRITES:
        return None
    source, frame, dim, start, *end = args_of(node)
    dim %= node.meta["val"].dim()
    if start < 0 or (end and end[0] - start != 1) or len(end) > 1:
        return None
    join, earlier = WRITES[node.target], before.get(source)
    if earlier is not None and (earlier.dim, earlier.join) == (dim, join):
        return _Written(earlier.base, dim, join, {**earlier.frames, start: frame})
    return _Written(source, dim, join, {start: frame})


def _filled(node: fx.Node) -> _Written | None:
    """A filled tensor of which no frame is written yet."""
    writes = [user for user in node.users if user.target in WRITES and user.args[0] is node]
    if node.target is not aten.full.default or not writes:
        return None
    return _Written(node, args_of(writes[0])[2] % node.meta["val"].dim(), WRITES[writes[0].target], {})


def _joined(node: fx.Node) -> _Written | None:
    """The frames that `node` joins behind a loop's initial values; None if it does not."""
    if node.target not in WRITES.values():
        return None
    entries, dim = args_of(node)[0], args_of(node)[1] if len(node.args) > 1 else 0
    if _are_alike(entries[:2]):
        return None  # frames alone
    if node.target is aten.cat.default and any(n.meta["val"].shape[dim] != 1 for n in entries):
        return None
    return _Written(node, dim % node.meta["val"].dim(), node.target, dict(enumerate(entries)))


def _entry_of(node: fx.Node, whole: _Written) -> _Written | None:
    """The writes to the entry that `node` takes along another axis than that of the frames."""
    _, axis, entry = args_of(node)
    axis %= args_of(node)[0].meta["val"].dim()
    if axis == whole.dim:
        return None
    in_frame = axis - 1 if whole.join is aten.stack.default and axis > whole.dim else axis

    def taken(value: fx.Node, along: int) -> fx.Node:
        with node.graph.inserting_before(node):
            new = node.graph.call_function(aten.select.int, (value, along, entry))
        new.meta = {**value.meta, "val": value.meta["val"].select(along, entry)}
        return new

    frames = {i: taken(frame, in_frame) for i, frame in whole.frames.items()}
    return _Written(taken(whole.base, axis), whole.dim - (axis < whole.dim), whole.join, frames)


def _fill_entry(node: fx.Node) -> None:
    """Fill one entry of a filled tensor alone, so that its size does not depend on the number of frames."""
    source, axis, _ = args_of(node)
    node.target, node.args, node.kwargs = source.target, _filling(source, axis, []), source.kwargs


def _filling(node: fx.Node, axis: int, size: Sequence[int]) -> tuple[Any, ...]:
    """The arguments of a fill with `size` in place of an axis."""
    sizes, value = args_of(node)
    axis %= len(sizes)
    return [*sizes[:axis], *size, *sizes[axis + 1 :]], value


def _are_alike(frames: Sequence[fx.Node]) -> bool:
    return len({resolve(n).base.target for n in frames}) < 2


def _is_cut(written: _Written, ends: Sequence[object], size: int) -> bool:
    """True if a slice of frames that are all written alike has a bound counted from the end."""
    if not written.has(0, size) or not _are_alike([written.frames[0], written.frames[min(1, size - 1)]]):
        return False
    return any(isinstance(n, int) and (n < 0 or n == END) for n in ends)


def _read(graph: fx.Graph, node: fx.Node, user: fx.Node, written: _Written) -> None:
    """Let `user` of `node` take the frames instead, if they are there."""
    dim, frames = written.dim, written.frames
    size, rank = node.meta["val"].shape[dim], node.meta["val"].dim()
    if user.target in WRITES and user.args[0] is node and args_of(user)[2] % rank == dim:
        return
    along = args_of(user)[1] % rank if user.target in (aten.select.int, aten.slice.Tensor) else None
    if user.target is aten.select.int and along != dim:
        return  # its own users read the frames
    with graph.inserting_before(user):
        if user.target is aten.select.int:
            entry = args_of(user)[2]
            if entry < 0:
                if written.base is node:
                    return  # the last of frames that are joined already
                entry += size
            if entry not in frames:
                user.replace_input_with(node, written.base)
            elif written.join is aten.stack.default:
                user.replace_all_uses_with(frames[entry])
            else:
                user.args = (frames[entry], dim, 0)
            return
        start, end = 0, size
        segment = along == dim and len(user.args) == 4
        if segment and _is_cut(written, args_of(user)[2:], size):
            segment = False
        if segment:
            start, end = args_of(user)[2], min(args_of(user)[3], size)
            start, end = (n + size if isinstance(n, int) and n < 0 else n for n in (start, end))
        if written.base is node and not segment:
            return
        if not isinstance(end, int) or not isinstance(start, int) or start < 0:
            return
        if not written.has(start, end) and not (segment and written.base.target is aten.full.default):
            return
        joined = graph.call_function(written.join, (written.segments(start, end, node.meta), dim))
    joined.meta = dict((user if segment else node).meta)
    if segment:
        user.replace_all_uses_with(joined)
    else:
        user.replace_input_with(node, joined)
