"""Parts of models, x (B, T, C) -> (B, T', C'); cells, one frame at a time; and parts of parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]


class Part(nn.Module):
    """Properties of a part.

    Attributes:
        width: features of what it gives.
        lost: frames of its input before the first that it gives, at least.
        rate: frames that it gives for each frame of its input.
        needs: frames of its input of which a chunk has to have a multiple.
        least: frames of its input that it cannot be without.
        ahead: whether what it gives of some frames depends on later ones, or on the end.
    """

    lost, least, needs, rate, ahead = 0, 0, 1, Fraction(1), False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


class Cell(nn.Module):
    def __init__(self, width: int, *rows: tuple[int, ...]) -> None:
        super().__init__()
        self.width, self.rows = width, rows

    def zeros(self, x: Tensor, batch: int) -> State:
        return tuple(x.new_zeros(batch, *row) for row in self.rows)


def silenced(linear: nn.Linear, kept: int = 0) -> nn.Linear:
    """All but the first `kept` outputs at zero, as a fresh layer that is initialised so."""
    with torch.no_grad():
        linear.weight[kept:], linear.bias[kept:] = 0, 0
    return linear


# --- parts of parts -----------------------------------------------------------------------------------------------


class Chain(Part):
    def __init__(self, size: int, parts: Sequence[Part]) -> None:
        super().__init__(parts[-1].width if parts else size)
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


class Residual(Part):
    """`fresh`: its last layer is at zero, as initialised."""

    def __init__(self, size: int, inside: Part, fresh: bool = False) -> None:
        super().__init__(size)
        self.inside, self.back = inside, nn.Linear(inside.width, size)
        self.needs, self.least, self.ahead = inside.needs, inside.least, inside.ahead
        if fresh:
            silenced(self.back)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(self.inside(x))


class Branches(Part):
    """Two parts side by side: `how` they meet is "cat" or "gate"."""

    def __init__(self, size: int, left: Part, right: Part, how: str) -> None:
        super().__init__(left.width + right.width if how == "cat" else left.width)
        self.left, self.right, self.how = left, right, how
        self.lost, self.least = max(left.lost, right.lost), max(left.least, right.least)
        self.needs, self.ahead = math.lcm(left.needs, right.needs), left.ahead or right.ahead
        self.fit = nn.Linear(right.width, left.width) if how == "gate" else None

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        # A branch that loses frames at its front makes the other lose them too.
        if self.left.lost < self.lost:
            a = a[:, self.lost - self.left.lost :]
        if self.right.lost < self.lost:
            b = b[:, self.lost - self.right.lost :]
        return torch.cat([a, b], dim=-1) if self.how == "cat" else a * torch.sigmoid(self.fit(b))
