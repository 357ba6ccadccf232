"""Nets that sum, count and scan over time, as their authors write them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CumulativeNorm(nn.Module):
    """Cumulative layer norm, as of Conv-TasNet, before a GRU: x (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.gru = nn.Parameter(torch.rand(4) + 0.5), nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(4, 4 * (x.shape[1] + 1), 4, dtype=x.dtype).view(1, -1, 1)
        mean = x.sum(2, keepdim=True).cumsum(1) / count
        power = x.pow(2).sum(2, keepdim=True).cumsum(1) / count
        y, _ = self.gru(self.gain * (x - mean) / (power - mean.pow(2) + 1e-3).sqrt())
        return y


class MinGRU(nn.Module):
    """minGRU in log space (Feng et al. 2024, appendix B), by F. Heinsen's parallel scan: x (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.hidden, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        k, candidate = self.gate(x), self.hidden(x)
        log_x = -F.softplus(-k) + torch.where(candidate >= 0, (F.relu(candidate) + 0.5).log(), F.logsigmoid(candidate))
        sums = (-F.softplus(k)).cumsum(1)
        return self.out((sums + (log_x - sums).logcumsumexp(1)).exp())


class MinGRUFromState(MinGRU):
    """The same as the paper writes it, with a frame for the state that it starts from."""

    def forward(self, x: Tensor) -> Tensor:
        k, candidate = self.gate(x), self.hidden(x)
        first = torch.full((x.shape[0], 1, 5), math.log(0.5))
        log_x = torch.cat([first, F.logsigmoid(k) + F.logsigmoid(candidate)], 1)
        sums = F.pad((-F.softplus(k)).cumsum(1), (0, 0, 1, 0))
        return self.out((sums + (log_x - sums).logcumsumexp(1)).exp()[:, 1:])


class Sinusoids(nn.Module):
    """Sinusoidal positions, made in forward, before a GRU: x (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[1]).unsqueeze(1) * torch.exp(torch.arange(0, 4, 2) * (-math.log(100) / 4))
        return self.gru(x + torch.cat([angle.sin(), angle.cos()], 1))[0]


class LearnedPositions(nn.Module):
    """A table of positions, `by` its first rows or as an embedding, before a GRU: x (B, T, 4)."""

    def __init__(self, by: str = "rows", positions: int = 90) -> None:
        super().__init__()
        self.by, self.table, self.gru = by, nn.Embedding(positions, 4), nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        return self.gru(x + (self.table.weight[:n] if self.by == "rows" else self.table(torch.arange(n))))[0]


class Doubling(torch.autograd.Function):
    """h[t] = a[t] * h[t - 1] + x[t] along axis 1, by doubling: each pass reaches twice as far."""

    @staticmethod
    def forward(ctx, a: Tensor, x: Tensor) -> Tensor:
        a, x, reach = a.clone(), x.clone(), 1
        while reach < x.shape[1]:
            x = torch.cat([x[:, :reach], x[:, reach:] + a[:, reach:] * x[:, :-reach]], 1)
            a = torch.cat([a[:, :reach], a[:, reach:] * a[:, :-reach]], 1)
            reach *= 2
        return x


class ParallelScan(nn.Module):
    """A gated recurrence by a function of torch.autograd: x (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(Doubling.apply(torch.sigmoid(self.gate(x)), self.value(x)))


class AssociativeScan(nn.Module):
    """torch's own: x (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        from torch._higher_order_ops import associative_scan

        pair = torch.sigmoid(self.gate(x)), self.value(x)
        return associative_scan(_after, pair, dim=1, combine_mode="generic")[1]


def _after(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return left[0] * right[0], right[0] * left[1] + right[1]
