"""How a model lays out a state whose rows are (B, *row)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RowLayout:
    """B streams in a model's own tensor.

    Attributes:
        axis: where the batch stands.
        inner: rows of one stream that follow each other along that axis, which then counts B * inner.
        added: how many axes, the batch and ones behind it, stand before those of a tensor that has no batch axis.
    """

    axis: int
    inner: int = 1
    added: int = 0

    def rows(self, tensor: Tensor) -> Tensor:
        """(B, *row) from the model's own tensor."""
        if self.added:
            return tensor.reshape(tensor.shape[0], *tensor.shape[self.added :])
        moved = tensor.movedim(self.axis, 0)
        return moved if self.inner == 1 else moved.reshape(-1, self.inner, *moved.shape[1:])

    def tensor(self, rows: Tensor) -> Tensor:
        """The model's own tensor from (B, *row)."""
        if self.added:
            return rows.reshape(rows.shape[0], *(1,) * (self.added - 1), *rows.shape[1:])
        merged = rows if self.inner == 1 else rows.reshape(-1, *rows.shape[2:])
        return merged.movedim(0, self.axis)

    def example_rows(self, example: Tensor) -> Tensor:
        """(B, *row) from an example value, which has the axes of one stream only where `added`."""
        return example[None] if self.added else self.rows(example)


def layouts(example: Tensor, batch: int, added: int = 4) -> Iterator[RowLayout]:
    """Every way in which `example` can hold the state of `batch` streams, the plain ones first."""
    sizes = list(enumerate(example.shape))
    yield from (RowLayout(axis) for axis, size in sizes if size == batch)
    yield from (RowLayout(0, added=count) for count in range(1, added + 1))
    yield from (RowLayout(axis, size // batch) for axis, size in sizes if size > batch and size % batch == 0)
