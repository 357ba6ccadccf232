"""A causal Conv-TasNet, from samples to the samples of each speaker (Luo and Mesgarani 2019, arXiv:1809.07454)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLE_RATE = 16000  # Hz
FILTER = 32  # samples of a filter: 2 ms, every millisecond


class CumulativeNorm(nn.Module):
    """Each frame of (B, C, T) by mean and variance of all channels of it and the frames before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1] * torch.arange(1, x.shape[2] + 1)
        mean = x.sum(1, keepdim=True).cumsum(2) / count
        power = x.pow(2).sum(1, keepdim=True).cumsum(2) / count
        return self.gain * (x - mean) / (power - mean.pow(2) + 1e-8).sqrt() + self.bias


class Block(nn.Module):
    """A depthwise convolution between two pointwise ones, with a residual and a skip."""

    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        self.before = 2 * dilation
        self.up = nn.Sequential(nn.Conv1d(channels, hidden, 1), nn.PReLU(), CumulativeNorm(hidden))
        self.depthwise = nn.Conv1d(hidden, hidden, 3, dilation=dilation, groups=hidden)
        self.norm = nn.Sequential(nn.PReLU(), CumulativeNorm(hidden))
        self.residual = nn.Conv1d(hidden, channels, 1)
        self.skip = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(self.depthwise(F.pad(self.up(x), (self.before, 0))))
        return x + self.residual(y), self.skip(y)


class ConvTasNet(nn.Module):
    """A mixture (B, samples) in, the speakers (B, speakers, samples) out; samples are a multiple of FILTER / 2."""

    def __init__(self, filters: int, channels: int, hidden: int, layers: int, repeats: int, speakers: int = 2) -> None:
        super().__init__()
        self.speakers = speakers
        self.encoder = nn.Conv1d(1, filters, FILTER, FILTER // 2, bias=False)
        self.bottleneck = nn.Sequential(CumulativeNorm(filters), nn.Conv1d(filters, channels, 1))
        self.blocks = nn.ModuleList(Block(channels, hidden, 2**n) for _ in range(repeats) for n in range(layers))
        self.masks = nn.Sequential(nn.PReLU(), nn.Conv1d(channels, speakers * filters, 1), nn.Sigmoid())
        self.decoder = nn.ConvTranspose1d(filters, 1, FILTER, FILTER // 2, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        encoded = torch.relu(self.encoder(mixture.unsqueeze(1)))  # (B, filters, frames)
        x, total = self.bottleneck(encoded), 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        masks = self.masks(total).chunk(self.speakers, 1)
        return torch.cat([self.decoder(encoded * mask) for mask in masks], 1)


def factory(
    filters: int = 64, channels: int = 64, hidden: int = 128, layers: int = 6, repeats: int = 2
) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]:
    """The net with random weights, an example, and the options of `export`."""
    torch.manual_seed(0)
    net = ConvTasNet(filters, channels, hidden, layers, repeats)
    return net.eval(), (torch.zeros(1, 50 * FILTER),), {"chunk": FILTER // 2, "sample_rate": SAMPLE_RATE}
