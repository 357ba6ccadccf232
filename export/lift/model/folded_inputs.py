"""Folds inputs with several frames for each frame of the sequence, so that all inputs have one rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rated:
    """An input with `frames` frames along `axis` for each frame of the sequence; folded, (..., T, frames, ...).

    The first `unread` folded frames are fed, and the model does not get them.
    """

    axis: int
    frames: int
    unread: int = 0

    def folded(self, tensor: Tensor) -> Tensor:
        """The tensor as it is fed to a stream, with an axis of `frames`."""
        sizes = [*tensor.shape[: self.axis], -1, self.frames, *tensor.shape[self.axis + 1 :]]
        return tensor if self.frames == 1 else tensor.reshape(sizes)

    def taken(self, folded: Tensor) -> Tensor:
        """The frames that the model gets."""
        left = folded.shape[self.axis] - self.unread
        read = folded.narrow(self.axis, self.unread, left) if self.unread else folded
        return read if self.frames == 1 else read.flatten(self.axis, self.axis + 1)

    def example(self, taken: Tensor) -> Tensor:
        """A folded tensor from which the model gets `taken`."""
        first = taken.narrow(self.axis, 0, 1).repeat_interleave(self.unread * self.frames, self.axis)
        return self.folded(torch.cat([first, taken], self.axis))
