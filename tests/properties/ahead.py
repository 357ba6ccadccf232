"""Parts that look ahead: padding on the right, centred pools, filled windows, and ends that are the sequence's own."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import Part


class Ahead(Part):
    """A part whose last frames follow only from the end of the sequence."""

    ahead = True


class Centred(Ahead):
    """A convolution that sees frames on both sides.

    `how` it is padded: "padding" and "same" by the layer, "pad" by F.pad, "value" with ones behind, "cat" with zeros.
    """

    def __init__(self, size: int, width: int, side: int, dilation: int, how: str) -> None:
        super().__init__(width)
        kernel, self.side, self.how = 2 * side + 1, side * dilation, how
        padding: Any = {"padding": self.side, "same": "same"}.get(how, 0)
        self.conv = nn.Conv1d(size, width, kernel, padding=padding, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        x, side = x.transpose(1, 2), self.side
        if self.how == "pad":
            x = F.pad(x, (side, side))
        elif self.how == "value":
            x = F.pad(F.pad(x, (side, 0)), (0, side), value=1.0)
        elif self.how == "cat":
            zeros = x.new_zeros(x.shape[0], x.shape[1], side)
            x = torch.cat([zeros, x, zeros], 2)
        return torch.tanh(self.conv(x)).transpose(1, 2)


class EvenSame(Ahead):
    """An even kernel with padding="same": a frame more behind than before."""

    def __init__(self, size: int, width: int, kernel: int) -> None:
        super().__init__(width)
        self.conv = nn.Conv1d(size, width, kernel, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class Following(Ahead):
    """Each frame beside the ones `after` it, zeros behind the last."""

    def __init__(self, size: int, after: int) -> None:
        super().__init__(2 * size)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, F.pad(x[:, self.after :], (0, 0, 0, self.after))], -1)


class CentredPool(Ahead):
    """`how`: "mean" with the padding in it, "own" without, "max"."""

    def __init__(self, size: int, side: int, stride: int, how: str) -> None:
        super().__init__(size)
        self.needs, self.rate = stride, Fraction(1, stride)
        kernel = 2 * side + 1
        self.pool: nn.Module = (
            nn.MaxPool1d(kernel, stride, side)
            if how == "max"
            else nn.AvgPool1d(kernel, stride, side, count_include_pad=how == "mean")
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x.transpose(1, 2)).transpose(1, 2)


class LastWindow(Ahead):
    """A pool whose last window may be incomplete: `how` "max", "mean", "own" without padding, "power"; `flat` over time
    alone, or over the features too.
    """

    def __init__(self, size: int, kernel: int, stride: int, padding: int, how: str, flat: bool) -> None:
        super().__init__(size if flat else -(-size // 2))
        self.needs, self.rate, self.least, self.flat = stride, Fraction(1, stride), kernel, flat
        kernels, strides, pads = (kernel, 1 if flat else 2), (stride, 1 if flat else 2), (padding, 0)
        if how == "max":
            self.pool: nn.Module = nn.MaxPool2d(kernels, strides, pads, ceil_mode=True)
        elif how == "power":
            self.pool = nn.LPPool2d(2, kernels, strides, ceil_mode=True)
        else:
            self.pool = nn.AvgPool2d(kernels, strides, pads, ceil_mode=True, count_include_pad=how == "mean")

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x[:, None])[:, 0]


class StridedAhead(Ahead):
    """A stride with padding: `how` "padding" on both sides by the layer, "filled" until the last window is whole."""

    def __init__(self, size: int, width: int, kernel: int, stride: int, how: str) -> None:
        super().__init__(width)
        self.needs, self.rate = stride, Fraction(1, stride)
        self.stride, self.before, self.how = stride, kernel - stride, how
        self.conv = nn.Conv1d(size, width, kernel, stride=stride, padding=kernel // 2 if how == "padding" else 0)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        if self.how == "filled":
            x = F.pad(x, (self.before, -x.shape[-1] % self.stride))
        return F.leaky_relu(self.conv(x)).transpose(1, 2)


class Mirrored(Ahead):
    """`mode`: "reflect" or "replicate", `left` and `right` frames of it.

    `how`: "pad" by F.pad before a window over all of it, "layer" by the convolution, "frames" with something done to
    each frame between, "short" before a window of three frames, "alone" before none. The last two make more frames.
    """

    def __init__(self, size: int, width: int, mode: str, left: int, right: int, how: str) -> None:
        super().__init__(size if how == "alone" else width)
        if how == "layer":
            right = left
        self.mode, self.left, self.right, self.how, self.least = mode, left, right, how, 1 + max(left, right)
        kernel = 3 if how == "short" else left + right + 1
        more: dict[str, Any] = {"padding": left, "padding_mode": mode} if how == "layer" else {}
        self.conv = nn.Conv1d(size, width, kernel, **more) if how != "alone" else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        if self.how != "layer":
            x = F.pad(x, (self.left, self.right), self.mode)
        if self.how == "frames":
            x = torch.tanh(2 * x)
        return (x if self.conv is None else self.conv(x)).transpose(1, 2)
