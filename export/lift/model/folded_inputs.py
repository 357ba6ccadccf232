"""Inputs that have several frames for each one of the others, folded: frames of so many entries, all at one rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rated:
    """An input with `frames` frames along `axis` for each frame of the sequence; folded, (..., T, frames, ...).

    Its first `unread` times as many are fed, and the model does not get them.
    """

    axis: int
    frames: int
    unread: int = 0

    def folded(self, tensor: Tensor) -> Tensor:
        """The tensor as a stream is fed it, with an axis of its own for the frames of one."""
        sizes = [*tensor.shape[: self.axis], -1, self.frames, *tensor.shape[self.axis + 1 :]]
        return tensor if self.frames == 1 else tensor.reshape(sizes)

    def taken(self, folded: Tensor) -> Tensor:
        """What the model gets."""
        left = folded.shape[self.axis] - self.unread
        read = folded.narrow(self.axis, self.unread, left) if self.unread else folded
        return read if self.frames == 1 else read.flatten(self.axis, self.axis + 1)

    def example(self, taken: Tensor) -> Tensor:
        """A folded tensor of which the model gets `taken`."""
        first = taken.narrow(self.axis, 0, 1).repeat_interleave(self.unread * self.frames, self.axis)
        return self.folded(torch.cat([first, taken], self.axis))
