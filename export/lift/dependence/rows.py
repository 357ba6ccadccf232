"""Where the batch stands in a value: the first row is exchanged, and the entries that move are its own."""

from __future__ import annotations

from torch import Tensor

from rnn_export.export.lift.dependence.layouts import BatchLayout
from rnn_export.export.lift.program.compare import LOCALITY, differing


class RowsMixed(Exception):
    """The rows of the batch are merged with others in no order that can be told."""


def batch_layout(value: Tensor, axis: int, batch: int, before: Tensor, after: Tensor) -> BatchLayout:
    """The layout of `value`, which has the rows of `batch` streams along `axis`.

    Args:
        value: of the layout in question.
        axis: whose size grows with the batch.
        batch: the number of streams.
        before: a value of one run in that layout, or of one axis more.
        after: the same where the first stream has another input.

    Raises RowsMixed.
    """
    factor = value.shape[axis] // batch
    if factor == 1:
        return BatchLayout(axis, 1, True)
    moved = differing(after, before, LOCALITY)
    if moved.dim() != value.dim():
        axis_of_moved = next(a for a in range(moved.dim()) if moved.shape[a] == value.shape[axis])
    else:
        axis_of_moved = axis
    places = moved.movedim(axis_of_moved, 0).flatten(1).any(1)
    size = int(places.shape[0])
    of_first_stream = set(places.nonzero().flatten().tolist())
    batch_major = of_first_stream <= set(range(size // batch))
    if not batch_major and not of_first_stream <= set(range(0, size, batch)):
        raise RowsMixed
    return BatchLayout(axis, factor, batch_major)
