"""The answers: where the frames of a value stand, and where the rows of its batch."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from torch import Tensor


def growing_axes(value: Tensor, other: Tensor) -> list[int]:
    """The axes along which the sizes of a value differ between two runs of other lengths, or of other batches."""
    return [a for a, (m, n) in enumerate(zip(value.shape, other.shape, strict=True)) if m != n]


@dataclass(frozen=True)
class FrameLayout:
    """Where the frames of a value stand: one of its axes is (batch_factor, frames, frame_size), merged.

    Attributes:
        axis: where they stand.
        batch_factor: rows of others in that axis before the frames, such as the batch; 1 for none.
        frame_size: entries of one frame in that axis.
    """

    axis: int
    batch_factor: int = 1
    frame_size: int = 1

    def frames_in(self, value: Tensor) -> int:
        return int(value.shape[self.axis]) // (self.batch_factor * self.frame_size)

    def split(self, value: Tensor) -> Tensor:
        """`value` with the frames in an axis alone: axis + 1."""
        sizes = (self.batch_factor, self.frames_in(value), self.frame_size)
        return value.reshape(*value.shape[: self.axis], *sizes, *value.shape[self.axis + 1 :])


class Dependence(enum.Enum):
    """Of a result without frames."""

    NONE = "no frame"
    LAST_FRAME = "the last frame alone"


FrameDependence = FrameLayout | Dependence


@dataclass(frozen=True)
class BatchLayout:
    """Where the rows of B streams stand in a value: one of its axes is B * factor long.

    Attributes:
        axis: where they stand.
        factor: rows of each stream in that axis, of bands for example; 1 for none but its own.
        batch_major: whether the axis is (B, factor), merged, or (factor, B).
    """

    axis: int
    factor: int
    batch_major: bool
