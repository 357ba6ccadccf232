"""The last piece of a sequence, which may be short: attention within a piece leaves out the frames that it lacks.

A loop over pieces is rolled up over whole ones, the last of which is filled up. Where a softmax weighs frames of its
own piece, those that are none of the sequence count nothing: which entries of the scores these are is seen by changing
one frame of the input after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx

from rnn_export.export.lift.program.fx import aten, named_args, overloads, placeholders, recorded
from rnn_export.export.lift.program.node_writer import NodeWriter

SOFTMAX = overloads("_softmax softmax.int _safe_softmax")
# Frames of a piece, at most.
LONGEST = 32
# By entry of an axis, the frame of the input that it follows from; None where it is of no single one.
Entries = list[int | None]
Windows = Callable[[NodeWriter, fx.Node, int, int], fx.Node]


def leave_out_filled(
    module: fx.GraphModule, sample: Sequence[Tensor], length_input: tuple[int, int], period: int, windows: Windows
) -> bool:
    """In place: each softmax over frames of its own piece leaves out those that are filled up; whether there is any.

    `windows(write, value, axis, period)` makes (B, pieces, period) of (B, T).
    """
    port, time = length_input
    fed = placeholders(module.graph)[port]
    weighing = [n for n in module.graph.nodes if n.target in SOFTMAX and _is_last(n)]
    if not weighing or not 1 < period <= LONGEST or fed.meta["val"].dim() < 2 or time != 1:
        return False
    found = _entries(module, sample, port, weighing)
    write = NodeWriter(module, "short")
    of_piece = {n: piece for n, entries in found.items() if (piece := _newest_piece(entries, period)) is not None}
    if not of_piece or any(not _has_rows(n, fed) for n in of_piece):
        return False
    write.at = fed
    with module.graph.inserting_before(next(n for n in module.graph.nodes if n.op == "call_function")):
        one = fed
        for _ in range(fed.meta["val"].dim() - 2):
            one = write.call(aten.select.int, one, 2, 0)
        there = write.call(aten.ones_like.default, one)
    there = windows(write, there, 1, period)
    for node, piece in of_piece.items():
        _mask(write, node, there, found[node], (piece, period))
    module.graph.lint()
    return True


def _is_last(node: fx.Node) -> bool:
    scores = node.args[0]
    rank = scores.meta["val"].dim() if isinstance(scores, fx.Node) else 0
    return rank > 2 and named_args(node)["dim"] in (-1, rank - 1)


def _has_rows(node: fx.Node, fed: fx.Node) -> bool:
    """Whether the first axis of the scores is the batch."""
    scores = node.args[0]
    return isinstance(scores, fx.Node) and str(scores.meta["val"].shape[0]) == str(fed.meta["val"].shape[0])


def _entries(
    module: fx.GraphModule, sample: Sequence[Tensor], port: int, nodes: Sequence[fx.Node]
) -> Mapping[fx.Node, Entries]:
    """By softmax, the frames of its entries: another frame changes their scores in all rows."""
    base = recorded(module, sample)
    found: dict[fx.Node, Entries] = {n: [None] * base[n].shape[-1] for n in nodes}
    for frame in range(sample[port].shape[1]):
        changed = sample[port].clone()
        changed[:, frame] = changed[:, frame].roll(1, 0) * -1.5
        other = recorded(module, [*sample[:port], changed, *sample[port + 1 :]])
        for node in nodes:
            scores = node.all_input_nodes[0]
            differs = (other[scores] != base[scores]).flatten(0, -3).any(0)
            if not differs.all():
                for entry in differs.all(0).nonzero().flatten().tolist():
                    found[node][entry] = frame
    return found


def _newest_piece(entries: Entries, period: int) -> int | None:
    """The last piece that entries are of, where all of its frames are among them."""
    newest = max((frame // period for frame in entries if frame is not None), default=None)
    return None if newest is None or not {*range(newest * period, (newest + 1) * period)} <= {*entries} else newest


def _mask(write: NodeWriter, node: fx.Node, there: fx.Node, entries: Entries, piece: tuple[int, int]) -> None:
    number, period = piece
    scores = node.all_input_nodes[0]
    write.at = node
    own = torch.tensor([frame is not None and frame // period == number for frame in entries])
    places = torch.tensor([(frame or 0) % period if mine else 0 for frame, mine in zip(entries, own, strict=True)])
    with write.graph.inserting_before(node):
        frames = write.call(aten.select.int, there, 1, number)
        taken = write.call(aten.index_select.default, frames, 1, write.constant(places))
        # What is of frames before is there.
        kept = write.call(aten.ge.Scalar, write.call(aten.add.Tensor, taken, write.constant((~own).float())), 0.5)
        for _ in range(write.value_of(scores).dim() - 2):
            kept = write.call(aten.unsqueeze.default, kept, 1)
        masked = write.call(aten.where.ScalarOther, kept, scores, torch.finfo(write.value_of(scores).dtype).min)
    node.replace_input_with(scores, masked)
