"""Which frames attention looks at, where it is a band of them, and what a table of frames by frames is along it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Of frames that attend within blocks.
LONGEST_PERIOD = 128


@dataclass(frozen=True)
class Band:
    """Frame t takes the frames from t - `behind` to t + `ahead`, and of those farther back the first `first`."""

    behind: int
    ahead: int
    first: int = 0

    @property
    def size(self) -> int:
        return self.behind + self.ahead + 1

    def along(self, table: Tensor) -> Tensor | None:
        """(..., T, T) as (..., period, size), from the oldest frame of each window on; None where it is not alike.

        Row n is of frame n and of every `period` frames after it: more than one where frames attend within blocks.
        """
        frames = table.shape[-1]
        rows = torch.arange(frames)
        places = rows[:, None] + torch.arange(-self.behind, self.ahead + 1)
        is_there, places = (places >= 0) & (places < frames), places.clamp(0, frames - 1)
        windows = table[..., rows[:, None].expand_as(places), places]
        one = windows[..., self.behind : self.behind + 1, :]
        if torch.equal(torch.where(is_there, windows, one), one.expand_as(windows)):
            return one
        middle = rows[self.behind : frames - self.ahead]
        windows = windows[..., middle, :]
        for period in range(2, min(LONGEST_PERIOD, len(middle) // 2) + 1):
            first = windows[..., :period, :].roll(self.behind, -2)
            if torch.equal(windows, first[..., middle % period, :]):
                return first
        return None

    def within(self, frames: int) -> Band:
        """What a sequence of so many frames has of it."""
        return replace(self, behind=min(self.behind, frames - 1), ahead=min(self.ahead, frames - 1))

    @staticmethod
    def of(taken: Tensor) -> Band | None:
        """The least one that has all of `taken`, (T, T); None where that is of none, or not of each frame alike."""
        first = int(taken[-1].long().cumprod(0).sum())
        first = 0 if first == len(taken) else first
        rows, columns = taken.nonzero().unbind(1)
        apart = (rows - columns)[columns >= first]
        if not len(apart):
            return None
        band = Band(max(int(apart.max()), 0), max(int(-apart.min()), 0), first)
        numbers = torch.arange(len(taken))
        early = (numbers[:, None] - numbers)[:, :first]
        is_kept = taken[:, :first]
        return band if is_kept[early > band.behind].all() and not is_kept[early < -band.ahead].any() else None

    def _of_first(self, table: Tensor) -> Tensor | None:
        """(..., 1, first): what frames have of the first ones that are farther back; None where they differ."""
        numbers = torch.arange(table.shape[-1])
        is_behind = (numbers[:, None] - numbers)[:, : self.first] > self.behind
        early, last = table[..., : self.first], table[..., -1:, : self.first]
        return last if torch.equal(torch.where(is_behind, early, last), last.expand_as(early)) else None

    def of_mask(self, mask: Any, frames: int) -> Tensor | None:
        """A mask as it stands along the band; of one that is no table of frames by frames, itself with an axis more."""
        mask = torch.as_tensor(mask)
        if mask.dim() < 2 or mask.shape[-1] != frames or mask.shape[-2] != frames:
            return mask if mask.numel() == 1 else None
        for axis in range(mask.dim() - 2):
            first = mask.narrow(axis, 0, 1)
            mask = first if torch.equal(mask, first.expand_as(mask)) else mask
        along = self.along(mask)
        if along is None or (along.shape[-2] > 1 and along.numel() > along.shape[-2] * along.shape[-1]):
            return None
        if self.first:
            early = self._of_first(mask) if along.shape[-2] == 1 else None
            return None if early is None else torch.cat([along, early], -1).unsqueeze(-2)
        return along.unsqueeze(-2)
