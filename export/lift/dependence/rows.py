"""Where the batch stands in a value: the first row is exchanged, and the entries that move are its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rnn_export.export.lift.program.compare import LOCALITY, differing


class RowsMixed(Exception):
    """The rows of the batch are merged with others in no order that can be told."""


@dataclass(frozen=True)
class BatchLayout:
    """Where the rows of B streams stand in a value: its axis `axis` is (B, factor), merged, or (factor, B).

    `factor` counts the rows of each stream, of bands for example; `batch_major` says that it is (B, factor).
    """

    axis: int
    factor: int
    batch_major: bool


def batch_layout(value: Tensor, axis: int, batch: int, before: Tensor, after: Tensor) -> BatchLayout:
    """The layout of `value`, whose size along `axis` grows with the number of streams, here `batch`.

    `before` is a value of one run in that layout, or of one axis more, and `after` the same where the first stream has
    another input. Raises RowsMixed.
    """
    factor = value.shape[axis] // batch
    if factor == 1:
        return BatchLayout(axis, 1, True)
    moved = differing(after, before, LOCALITY)
    axis_of_moved = axis if moved.dim() == value.dim() else list(moved.shape).index(value.shape[axis])
    places = moved.movedim(axis_of_moved, 0).flatten(1).any(1)
    size = int(places.shape[0])
    of_first_stream = set(places.nonzero().flatten().tolist())
    batch_major = of_first_stream <= set(range(size // batch))
    if not batch_major and not of_first_stream <= set(range(0, size, batch)):
        raise RowsMixed
    return BatchLayout(axis, factor, batch_major)
