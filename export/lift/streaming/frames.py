"""Where time stands in a value, and the numeric question whether an operator works frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from rnn_export.errors import LiftError


@dataclass(frozen=True)
class Timed:
    """A value that has frames.

    Attributes:
        axis: where they stand.
        outer: rows of others in that axis before the frames, such as the batch; 1 for none.
        inner: entries of one frame in that axis.
        rate: frames for each frame of the input.
        lag: how many frames late each is known, negative if before its time; None for what never changes.
        past: frames at the front of each step that the step before had too.
        waited: how many of the frames that it is late it only waited, for others or for a whole step.
    """

    axis: int
    outer: int
    inner: int
    rate: Fraction
    lag: int | None
    past: int = 0
    waited: int = 0

    @property
    def soonest(self) -> int:
        """The lag that it would have without waiting."""
        return (self.lag or 0) - self.waited

    @property
    def late(self) -> Fraction:
        return Fraction(self.lag or 0) / self.rate


@dataclass(frozen=True)
class Last:
    """A value as of the newest frame, so many frames of the input late."""

    late: Fraction


@dataclass(frozen=True)
class Refused:
    """A value that a stream cannot have: an error only where it is used."""

    error: LiftError


Info = Timed | Last | Refused | None


def differs(a: Any, b: Any) -> Tensor:
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return torch.ones(1, dtype=torch.bool)
    if not a.is_floating_point():
        return torch.ne(a, b)
    scale = float(b.abs().nan_to_num(0, 0, 0).max()) if b.numel() else 0.0
    same = torch.isclose(a.double(), b.double(), rtol=0, atol=1e-5 * max(scale, 1e-3), equal_nan=True)
    return ~same


def close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a.double(), b.double(), rtol=1e-6, atol=1e-7))


def positive(dim: Any, rank: int) -> int:
    return int(dim) % rank
