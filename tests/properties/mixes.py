"""Operators that mix frames or rows, each zero for a value that is zero everywhere, and the part that plants one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .parts import Part
from .thresholds import Gate

# Of the value x and what a gate leaves of it: mix(x, gated), as x or to be broadcast to it.
Mix = Callable[[Tensor, Tensor], Tensor]

# x (B, T, C).
TIME: dict[str, Mix] = {
    "flip": lambda x, g: g.flip(1),
    "roll": lambda x, g: g.roll(1, 1),
    "sort": lambda x, g: g.sort(1, descending=True).values,
    "max": lambda x, g: g.amax(1, keepdim=True),
    "kth": lambda x, g: g.kthvalue(g.shape[1], 1, keepdim=True).values,
    "mean": lambda x, g: g.mean(1, keepdim=True),
    "sum": lambda x, g: g.sum(dim=1, keepdim=True),
    "norm": lambda x, g: g.norm(dim=1, keepdim=True),
    "std": lambda x, g: g.std(1, keepdim=True, unbiased=False),
    "softmax": lambda x, g: torch.softmax(g, 1) * g,
    "normalised": lambda x, g: F.normalize(g, dim=1),
    "layer norm": lambda x, g: F.layer_norm(g, g.shape[1:]),
    "group norm": lambda x, g: F.group_norm(g.transpose(1, 2), 1).transpose(1, 2),
    "any": lambda x, g: (g != 0).any(1, keepdim=True).to(x.dtype),
    "argmax": lambda x, g: x.gather(1, g.argmax(1, keepdim=True)) * (g.amax(1, keepdim=True) > 0),
    "index": lambda x, g: torch.index_select(g, 1, g[0, :, 0].argsort(stable=True)),
    "last": lambda x, g: g[:, -1:],
    "next": lambda x, g: F.pad(g[:, 1:], (0, 0, 0, 1)),
    "pool": lambda x, g: F.max_pool1d(g.transpose(1, 2), 3, 1, 1).transpose(1, 2),
    "average": lambda x, g: F.avg_pool1d(g.transpose(1, 2), 5, 1, 2).transpose(1, 2),
    "attention": lambda x, g: torch.softmax(g @ g.transpose(1, 2), -1) @ g,
    "einsum": lambda x, g: torch.einsum("btc,bsc,bsd->btd", g, g, g) / g.shape[1],
    "view": lambda x, g: g.reshape(g.shape[0], g.shape[2], g.shape[1]).transpose(1, 2),
    "fft": lambda x, g: torch.fft.irfft(torch.fft.rfft(g, dim=1).abs(), n=g.shape[1], dim=1),
    "reversed sum": lambda x, g: g.flip(1).cumsum(1).flip(1),
    "cumsum": lambda x, g: torch.cumsum(g, 1),
    "cummax": lambda x, g: torch.cummax(g, dim=1).values,
    "latch": lambda x, g: torch.cumsum((g != 0).to(x.dtype), 1).clamp(max=1),
}
# Of no later frame: a stream that keeps them as states is exact.
CAUSAL = ("cumsum", "cummax", "latch")

# x (B, ..., C).
ROWS: dict[str, Mix] = {
    "mean": lambda x, g: g.mean(0, keepdim=True),
    "sum": lambda x, g: g.sum(0),
    "max": lambda x, g: g.amax(0, keepdim=True),
    "flip": lambda x, g: g.flip(0),
    "roll": lambda x, g: g.roll(1, 0),
    "sort": lambda x, g: torch.sort(g, dim=0).values,
    "softmax": lambda x, g: torch.softmax(g, dim=0) * g,
    "cumsum": lambda x, g: g.cumsum(0),
    "first": lambda x, g: g[:1],
    "norm": lambda x, g: torch.linalg.vector_norm(g, dim=0, keepdim=True),
    "any": lambda x, g: (g != 0).any(0).to(x.dtype),
    "argmax": lambda x, g: x.gather(0, g.argmax(0, keepdim=True)) * (g.amax(0, keepdim=True) > 0),
    "all": lambda x, g: torch.clamp(g.sum(), max=10.0),
    "pairs": lambda x, g: (g.unsqueeze(1) * g.unsqueeze(0)).sum(1),
    "view": lambda x, g: g.reshape(*g.shape[1:-1], g.shape[0], g.shape[-1]).transpose(0, -2) if g.dim() > 2 else g[:1],
}
MIXES = {"time": TIME, "rows": ROWS}
JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, mixed: x + mixed,
    "scale": lambda x, mixed: x * (1 + mixed),
    "where": lambda x, mixed: torch.where(mixed != 0, 0.5 * x, x),
}


class Planted(Part):
    """`over` ("time" or "rows") and `how`: of MIXES; `gate`: of GATES; `join`: of JOINS; on what `inside` gives."""

    def __init__(
        self, size: int, over: str, how: str, gate: str, level: float, join: str, inside: Part | None = None
    ) -> None:
        super().__init__(size if inside is None else inside.width)
        self.over, self.how, self.join, self.inside = over, how, join, inside
        if inside is not None:
            self.lost, self.least, self.ahead = inside.lost, inside.least, inside.ahead
            self.needs, self.rate = inside.needs, inside.rate
        self.gate = Gate(self.width, gate, level)

    def forward(self, x: Tensor) -> Tensor:
        if self.inside is not None:
            x = self.inside(x)
        return JOINS[self.join](x, MIXES[self.over][self.how](x, self.gate(x)))
