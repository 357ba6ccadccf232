"""Sums, extremes, counts and positions over all of the past."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._higher_order_ops import associative_scan
from torch.nn import functional as F

from .parts import Part


class Positions(Part):
    """`how`: "sinus", "turns" (a table looked up again and again), "fades" (1 / t)."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how, self.table = how, nn.Embedding(5, size)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.arange(x.shape[1])
        if self.how == "turns":
            return x + self.table(t % 5)
        if self.how == "fades":
            return x * (1 + 1 / (1 + t))[:, None]
        return x + torch.sin(t[:, None] * torch.arange(1, self.width + 1) / 8)


class Running(Part):
    """`how`: "mean" of all frames so far, "norm" by it, "max", "min", "log" of a mean of exponentials, "product"."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(1, x.shape[1] + 1)[:, None]
        if self.how == "mean":
            return x.cumsum(1) / count
        if self.how == "norm":
            mean = x.sum(2, keepdim=True).cumsum(1) / (self.width * count)
            power = x.pow(2).sum(2, keepdim=True).cumsum(1) / (self.width * count)
            return (x - mean) / (power - mean.pow(2)).clamp(min=0.1).sqrt()
        if self.how == "log":
            return x.logcumsumexp(1) - count.log()
        if self.how == "product":
            return x * torch.sigmoid(x + 4).cumprod(1)
        return x - (x.cummax(1) if self.how == "max" else x.cummin(1)).values


class Latch(Part):
    """An event over all of the past: `how` it is kept is "cumsum", "cummax" or "any" (a sum asked for its sign)."""

    def __init__(self, size: int, how: str, level: float) -> None:
        super().__init__(size)
        self.how, self.level = how, level

    def forward(self, x: Tensor) -> Tensor:
        event = (x > self.level).to(x.dtype)
        if self.how == "cumsum":
            return x * (1 - torch.cumsum(event, 1).clamp(max=1))
        if self.how == "cummax":
            return x * (1 - torch.cummax(event, dim=1).values)
        return torch.where(torch.cumsum(event, dim=1) > 0, torch.zeros_like(x), x)


class Scan(Part):
    """h[t] = (1 - z[t]) h[t - 1] + z[t] g[t]: `how` "log" by running sums of logarithms (minGRU), "associative"."""

    def __init__(self, size: int, width: int, how: str) -> None:
        super().__init__(width)
        self.how, self.gate, self.value = how, nn.Linear(size, width), nn.Linear(size, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate(x), torch.sigmoid(self.value(x))
        if self.how == "associative":
            z = torch.sigmoid(gate)
            return associative_scan(_after, (1 - z, z * value), dim=1, combine_mode="generic")[1]
        kept = F.logsigmoid(-gate).cumsum(1)
        return (kept + (F.logsigmoid(gate) + value.log() - kept).logcumsumexp(1)).exp()


def _after(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return left[0] * right[0], right[0] * left[1] + right[1]
