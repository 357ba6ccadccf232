"""The layout of frames of a sequence, or rows of a batch, in a value."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AxisLayout:
    """The frames or rows of a value: its axis `axis` is (outer, frames or rows, inner), merged.

    For frames, `outer` counts entries before them, such as the batch, and `inner` the entries of one frame. For rows,
    `inner` counts the rows of each stream, of bands for example.
    """

    axis: int
    outer: int = 1
    inner: int = 1

    @property
    def is_plain(self) -> bool:
        """True if the axis has nothing else."""
        return self.outer == self.inner == 1

    def indices_in(self, value: Tensor) -> int:
        return int(value.shape[self.axis]) // (self.outer * self.inner)

    def split(self, value: Tensor) -> Tensor:
        """`value` with frames or rows alone on axis + 1."""
        sizes = (self.outer, self.indices_in(value), self.inner)
        return value.reshape(*value.shape[: self.axis], *sizes, *value.shape[self.axis + 1 :])


class Dependence(enum.Enum):
    """Results without such axis."""

    NONE = "no cell"
    LAST = "the last cell alone"


IndexDependence = AxisLayout | Dependence


def growing_axes(value: Tensor, other: Tensor) -> list[int]:
    """The axes along which the sizes of a value differ between two runs of other lengths or batches."""
    return [a for a, (m, n) in enumerate(zip(value.shape, other.shape, strict=True)) if m != n]
