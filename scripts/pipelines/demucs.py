"""A Demucs for live speech: a U-Net over samples around an LSTM (Défossez et al. 2020, arXiv:2006.12847)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLE_RATE = 16000  # Hz
KERNEL, STRIDE = 8, 4


class Demucs(nn.Module):
    """Noisy sound (B, samples) in, clean sound (B, samples) out."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        inside = 1
        for level in range(depth):
            outside, inside_next = inside, channels * 2**level
            down = [nn.Conv1d(outside, inside_next, KERNEL, STRIDE), nn.ReLU()]
            self.encoder.append(nn.Sequential(*down, nn.Conv1d(inside_next, 2 * inside_next, 1), nn.GLU(1)))
            up = [nn.Conv1d(inside_next, 2 * inside_next, 1), nn.GLU(1)]
            up.append(nn.ConvTranspose1d(inside_next, outside, KERNEL, STRIDE))
            self.decoder.insert(0, nn.Sequential(*up, *([nn.ReLU()] if level else [])))
            inside = inside_next
        self.lstm = nn.LSTM(inside, inside, 2, batch_first=True)

    def valid_length(self, length: int) -> int:
        """The least length from `length` on that the strides divide."""
        for _ in self.encoder:
            length = max(math.ceil((length - KERNEL) / STRIDE) + 1, 1)
        for _ in self.encoder:
            length = (length - 1) * STRIDE + KERNEL
        return length

    def forward(self, noisy: Tensor) -> Tensor:
        length = noisy.shape[-1]
        x = F.pad(noisy.unsqueeze(1), (0, self.valid_length(length) - length))
        skips = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        x = self.lstm(x.transpose(1, 2))[0].transpose(1, 2)
        for layer in self.decoder:
            x = layer(x + skips.pop()[..., : x.shape[-1]])
        return x[:, 0, :length]


def factory(channels: int = 24, depth: int = 4) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]:
    """The net with random weights, an example, and the options of `export`."""
    torch.manual_seed(0)
    return Demucs(channels, depth).eval(), (torch.zeros(1, 4000),), {"chunk": STRIDE**depth, "sample_rate": SAMPLE_RATE}
