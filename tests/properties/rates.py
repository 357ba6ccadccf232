"""Parts that upsample, and parts between a downsampling and an upsampling."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import Part

TRANSPOSED = ("transposed", "trimmed", "cut")


class Up(Part):
    """`times` as many frames.

    `how`: "transposed" convolution with all that it gives, "trimmed" on both sides by its padding, "cut" behind; frames
    that are "repeated", "nearest", "linear" between them, "shuffled" from channels into time.
    """

    def __init__(self, size: int, width: int, times: int, how: str) -> None:
        super().__init__(width)
        self.rate, self.times, self.how = Fraction(times), times, how
        self.ahead = how in ("transposed", "trimmed", "linear")
        if how in TRANSPOSED:
            kernel, padding = (3 * times, times) if how == "trimmed" else (2 * times, 0)
            self.up: nn.Module = nn.ConvTranspose1d(size, width, kernel, times, padding=padding)
        else:
            self.up = nn.Conv1d(size, width * times if how == "shuffled" else width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x.transpose(1, 2))
        if self.how == "cut":
            y = y[:, :, : -self.times]
        elif self.how == "repeated":
            y = y.repeat_interleave(self.times, 2)
        elif self.how in ("nearest", "linear"):
            y = F.interpolate(y, scale_factor=self.times, mode=self.how)
        elif self.how == "shuffled":
            rows, channels, frames = y.shape
            y = y.reshape(rows, channels // self.times, self.times, frames).transpose(2, 3).flatten(2)
        return y.transpose(1, 2)


class Resized(Part):
    """`made` frames for every `taken`, by interpolation: `how` is its mode; "bilinear" and "bicubic" over features too,
    of which there are `bands` times as many.
    """

    ahead = True

    def __init__(self, size: int, made: int, taken: int, how: str, bands: int) -> None:
        both = how in ("bilinear", "bicubic")
        super().__init__(size * bands if both else size)
        self.rate, self.needs, self.how = Fraction(made, taken), taken, how
        self.least, self.factor = taken, (made / taken, float(bands)) if both else made / taken

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.factor, tuple):
            return F.interpolate(x[:, None], scale_factor=self.factor, mode=self.how)[:, 0]
        return F.interpolate(x.transpose(1, 2), scale_factor=self.factor, mode=self.how).transpose(1, 2)


class Between(Part):
    """A convolution to half the frames, a part on these, as many frames again, cut to those that there were.

    `how`: "transposed" or "nearest".
    """

    ahead = True

    def __init__(self, size: int, inside: Part, how: str) -> None:
        super().__init__(size)
        self.inside, self.how, self.needs, self.least = inside, how, 2 * inside.needs, 2 * inside.least
        self.down = nn.Conv1d(size, size, 3, stride=2, padding=1)
        self.back = nn.ConvTranspose1d(inside.width, size, 4, 2, padding=1) if how == "transposed" else None
        self.mix = nn.Linear(inside.width, size)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inside(torch.relu(self.down(x.transpose(1, 2))).transpose(1, 2))
        if self.back is not None:
            y = self.back(y.transpose(1, 2)).transpose(1, 2)
        else:
            y = F.interpolate(self.mix(y).transpose(1, 2), scale_factor=2).transpose(1, 2)
        return x + y[:, : x.shape[1]]
