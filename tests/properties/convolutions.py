"""Convolutions over time that look back."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import Part


class Causal(Part):
    """`how` the past is padded: "pad" by F.pad, "chomp" on both sides and cut off, "constant", "cat" with zeros."""

    def __init__(self, size: int, width: int, kernel: int, dilation: int, grouped: bool, how: str) -> None:
        width = size if grouped else width
        super().__init__(width)
        self.left, self.how = dilation * (kernel - 1), how
        padding = self.left if how == "chomp" else 0
        groups = size if grouped else 1
        self.conv = nn.Conv1d(size, width, kernel, padding=padding, dilation=dilation, groups=groups)
        self.pad = nn.ConstantPad1d((self.left, 0), 0.3) if how == "constant" else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        if self.how == "pad":
            y = self.conv(F.pad(x, (self.left, 0)))
        elif self.how == "constant":
            y = self.conv(self.pad(x))
        elif self.how == "cat":
            y = self.conv(torch.cat([x.new_zeros(x.shape[0], x.shape[1], self.left), x], dim=2))
        else:
            y = self.conv(x)
            y = y[:, :, : -self.left] if self.left else y
        return y.transpose(1, 2)


class Separable(Part):
    """Causal depthwise, then pointwise, a ReLU, and the input on top, as in a temporal convolutional network."""

    def __init__(self, size: int, kernel: int, dilation: int) -> None:
        super().__init__(size)
        self.left = dilation * (kernel - 1)
        self.depth = nn.Conv1d(size, size, kernel, dilation=dilation, groups=size)
        self.point, self.act = nn.Conv1d(size, size, 1), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(F.pad(x.transpose(1, 2), (self.left, 0)))
        return x + self.point(self.act(y)).transpose(1, 2)


class Valid(Part):
    """A convolution without padding; `residual` adds the input, cut to what is left."""

    def __init__(self, size: int, width: int, kernel: int, dilation: int, residual: bool) -> None:
        width = size if residual else width
        super().__init__(width)
        self.lost, self.residual = dilation * (kernel - 1), residual
        self.conv = nn.Conv1d(size, width, kernel, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return y + x[:, self.lost :] if self.residual else y


class Strided(Part):
    """`how`: "causal" (padded by kernel - stride), "full" (by kernel - 1), "valid" (by nothing)."""

    def __init__(self, size: int, width: int, kernel: int, stride: int, how: str) -> None:
        super().__init__(width)
        self.needs, self.rate = stride, Fraction(1, stride)
        self.left = {"causal": kernel - stride, "full": kernel - 1, "valid": 0}[how]
        self.least = kernel if how == "valid" else 0
        self.conv = nn.Conv1d(size, width, kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        x = F.pad(x, (self.left, 0)) if self.left else x
        return F.leaky_relu(self.conv(x)).transpose(1, 2)


class Pool(Part):
    def __init__(self, size: int, average: bool) -> None:
        super().__init__(size)
        self.needs, self.rate, self.least = 2, Fraction(1, 2), 2
        self.pool = nn.AvgPool1d(2) if average else nn.MaxPool1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x.transpose(1, 2)).transpose(1, 2)


class Spectral(Part):
    """Conv2d over (time, features): causal over time, then the channels beside the features."""

    def __init__(self, size: int, channels: int, kernel: int, band: int) -> None:
        super().__init__(channels * (size - band + 1))
        self.left = kernel - 1
        self.conv = nn.Conv2d(1, channels, (kernel, band))

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv(F.pad(x.unsqueeze(1), (0, 0, self.left, 0))))
        B, C, T, bands = y.shape
        return y.permute(0, 2, 1, 3).reshape(B, T, C * bands)


class TokenShift(Part):
    """Each frame mixed with the one before; `how`: "pad" or "cat"."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.mix, self.how = nn.Parameter(torch.rand(size)), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "pad":
            before = F.pad(x[:, :-1], (0, 0, 1, 0))
        elif self.how == "module":
            before = F.pad(x, (0, 0, 1, -1))
        else:
            before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return self.mix * x + (1 - self.mix) * before
