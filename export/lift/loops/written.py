"""Frames written into one tensor, `out[:, t] = y`, `state[k] = h`: what reads them reads what was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from rnn_export.export.lift.program.fx import args_of, aten

# How the pieces that each of these writes are put together.
WRITES = {aten.select_scatter.default: aten.stack.default, aten.slice_scatter.default: aten.cat.default}


@dataclass(frozen=True)
class _Written:
    """A tensor after some of its frames along `dim` were written, in the same way: `base` before that."""

    base: fx.Node
    dim: int
    join: Any
    frames: Mapping[int, fx.Node]

    def has(self, start: int, end: int) -> bool:
        return all(i in self.frames for i in range(start, end))


def read_written_frames(graph: fx.Graph) -> None:
    """Let each reader of a tensor that was written frame by frame take what was written, or what was there before."""
    written: dict[fx.Node, _Written] = {}
    for node in list(graph.nodes):
        if (found := _written_by(node, written)) is not None:
            written[node] = found
            for user in list(node.users):
                _read(graph, node, user, found)
    graph.eliminate_dead_code()


def _written_by(node: fx.Node, before: Mapping[fx.Node, _Written]) -> _Written | None:
    """What was written along one axis, up to `node`; None where it writes several frames, or is no such node."""
    if node.target not in WRITES:
        return None
    source, frame, dim, start, *end = args_of(node)
    if start < 0 or (end and end[0] - start != 1) or len(end) > 1:
        return None
    join, earlier = WRITES[node.target], before.get(source)
    if earlier is not None and (earlier.dim, earlier.join) == (dim, join):
        return _Written(earlier.base, dim, join, {**earlier.frames, start: frame})
    return _Written(source, dim, join, {start: frame})


def _read(graph: fx.Graph, node: fx.Node, user: fx.Node, written: _Written) -> None:
    """Let `user` of `node` take the frames instead, if they are there."""
    dim, frames = written.dim, written.frames
    if user.target in WRITES and user.args[0] is node and user.args[2] == dim:
        return
    with graph.inserting_before(user):
        if user.target is aten.select.int and user.args[1] == dim:
            entry = args_of(user)[2]
            if entry not in frames and written.base.target is aten.full.default:
                sizes, *fill = args_of(written.base)
                filled = graph.call_function(aten.full.default, ([*sizes[:dim], *sizes[dim + 1 :]], *fill))
                filled.kwargs, filled.meta = written.base.kwargs, dict(user.meta)
                user.replace_all_uses_with(filled)
            elif entry not in frames:
                user.replace_input_with(node, written.base)
            elif written.join is aten.stack.default:
                user.replace_all_uses_with(frames[entry])
            else:
                user.args = (frames[entry], dim, 0)
            return
        size = node.meta["val"].shape[dim]
        start, end = 0, size
        piece = user.target is aten.slice.Tensor and len(user.args) == 4 and user.args[1] == dim
        if piece:
            start, end = args_of(user)[2], min(args_of(user)[3], size)
        if not isinstance(end, int) or not isinstance(start, int) or start < 0 or not written.has(start, end):
            return
        joined = graph.call_function(written.join, ([frames[i] for i in range(start, end)], dim))
    joined.meta = dict((user if piece else node).meta)
    if piece:
        user.replace_all_uses_with(joined)
    else:
        user.replace_input_with(node, joined)
