"""Attention that a mask narrows to the frames nearby."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import Part


class Band(Part):
    """Frames from `behind` before to `ahead` after each.

    `how`: "sdpa" with a mask of booleans, "hand" with scores filled, "module" for nn.MultiheadAttention, "slopes" that
    fall with the distance, "rotary" turned by position, "blocks" of `behind` + 1 frames, each with the one before.
    """

    def __init__(self, size: int, behind: int, ahead: int, how: str) -> None:
        super().__init__(size)
        self.behind, self.after, self.how = behind, ahead, how
        self.ahead = ahead > 0 or how == "blocks"
        self.qkv, self.out = nn.Linear(size, 24), nn.Linear(8, size)
        self.module = nn.MultiheadAttention(8, 2, batch_first=True) if how == "module" else None

    def allowed(self, frames: int) -> Tensor:
        """(T, T): which keys each query sees."""
        at = torch.arange(frames)
        if self.how == "blocks":
            at = at // (self.behind + 1)
            return ((at[:, None] - at) >= 0) & ((at[:, None] - at) <= 1)
        later = at[:, None] - at
        return (later >= -self.after) & (later <= self.behind)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[1]
        q, k, v = self.qkv(x).chunk(3, -1)
        allowed = self.allowed(frames)
        if self.module is not None:
            return self.out(self.module(q, k, v, attn_mask=~allowed, need_weights=False)[0])
        if self.how == "hand":
            scores = (q @ k.transpose(1, 2) / 8**0.5).masked_fill(~allowed, float("-inf"))
            return self.out(torch.softmax(scores, -1) @ v)
        if self.how == "rotary":
            q, k = (turned(y) for y in (q, k))
        q, k, v = (y.unflatten(2, (2, 4)).transpose(1, 2) for y in (q, k, v))
        if self.how == "slopes":
            at = torch.arange(frames)
            allowed = torch.where(allowed, -0.3 * (at[:, None] - at).abs().float(), float("-inf"))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out(y.transpose(1, 2).flatten(2))


def turned(x: Tensor) -> Tensor:
    """(B, T, C), each pair of features turned by the number of the frame."""
    angle = torch.arange(x.shape[1])[:, None] / 3.0 ** torch.arange(x.shape[2] // 2)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
