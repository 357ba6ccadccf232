"""A transformer over frames of samples that sees the last W of them, with rotary embeddings of true positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLE_RATE = 16000  # Hz
FRAME = 160  # samples: 10 ms


def rotated(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021, arXiv:2104.09864) of (B, heads, T, E), each frame by its number."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * 10000.0 ** (-torch.arange(half) / half)
    first, second = x.chunk(2, -1)
    return torch.cat([first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1)


class Layer(nn.Module):
    """Attention and a net for each frame, each behind a norm, (B, T, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        batch, frames, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, frames, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotated(q, positions), rotated(k, positions), v, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(batch, frames, width))
        return x + self.mlp(x)


class Transformer(nn.Module):
    """Sound (B, samples) in, scores (B, frames, classes) out, of each frame and the `window` - 1 before it."""

    def __init__(self, window: int, width: int, heads: int, layers: int, classes: int = 4) -> None:
        super().__init__()
        self.window = window
        self.embed = nn.Conv1d(1, width, FRAME, FRAME)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, sound: Tensor) -> Tensor:
        x = self.embed(sound.unsqueeze(1)).transpose(1, 2)
        positions = torch.arange(x.shape[1])
        separate = positions[:, None] - positions[None]
        mask = (separate >= 0) & (separate < self.window)
        for layer in self.layers:
            x = layer(x, positions, mask)
        return self.head(x)


def factory(
    window: int = 64, width: int = 64, heads: int = 4, layers: int = 2
) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]:
    """The net with random weights, an example, and the options of `export`."""
    torch.manual_seed(0)
    net = Transformer(window, width, heads, layers)
    return net.eval(), (torch.zeros(1, 12 * FRAME),), {"chunk": FRAME, "sample_rate": SAMPLE_RATE}
