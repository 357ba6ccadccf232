"""Nets that sum and scan over time, as their authors write them."""

from __future__ import annotations

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
