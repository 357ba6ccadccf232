"""Parts that a stream cannot have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import Part


class Bidirectional(Part):
    def __init__(self, size: int, cell: str) -> None:
        super().__init__(6)
        self.rnn = getattr(nn, cell)(size, 3, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class Attention(Part):
    """To all frames: `how` "matmul" by hand, "sdpa", "module", and "causal", whose memory grows without end."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how = how
        self.module = nn.MultiheadAttention(size, 1, batch_first=True) if how == "module" else None
        self.qkv = nn.Linear(size, 3 * size)

    def forward(self, x: Tensor) -> Tensor:
        if self.module is not None:
            return self.module(x, x, x, need_weights=False)[0]
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.how in ("sdpa", "causal"):
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.how == "causal")
        return torch.softmax(q @ k.transpose(1, 2) / self.width**0.5, -1) @ v


class OverTime(Part):
    """An operator over the whole of time: "softmax", "mean", "max", "flip", "roll", "standardised"."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "softmax":
            return torch.softmax(x, dim=1)
        if self.how == "mean":
            return x - x.mean(1, keepdim=True)
        if self.how == "max":
            return x / x.abs().amax(1, keepdim=True)
        if self.how == "flip":
            return x.flip(1)
        if self.how == "roll":
            return x.roll(1, 1)
        return (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + 1e-5)


class Circular(Part):
    """Its first frames need the last ones."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.conv = nn.Conv1d(size, size, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class FromEnd(Part):
    """Positions counted from the last frame."""

    def forward(self, x: Tensor) -> Tensor:
        left = torch.arange(x.shape[1] - 1, -1, -1)
        return x * (1 + torch.exp(-left / 4))[:, None]


class Table(Part):
    """Positions that are looked up, so that they end."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.table = nn.Embedding(5000, size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(torch.arange(x.shape[1]))


class Statistics(Part):
    """`how`: "batch" (BatchNorm without running statistics), "group", "instance"."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.norm: Any = {
            "batch": lambda: nn.BatchNorm1d(size, track_running_stats=False),
            "group": lambda: nn.GroupNorm(1, size),
            "instance": lambda: nn.InstanceNorm1d(size, affine=True),
        }[how]()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class DataBranch(Part):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return torch.tanh(2 * x)
        return torch.tanh(x)


class Packed(Part):
    def __init__(self, size: int) -> None:
        super().__init__(4)
        self.gru = nn.GRU(size, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((x.shape[0],), x.shape[1])
        pack = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.gru(pack)[0], batch_first=True)[0]


class OddLoop(Part):
    """`how`: "backwards", "alternating" (two cells by turns), "counting" (t is a value), "start" (from the last)."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(4)
        self.how, self.cell, self.other = how, nn.GRUCell(size, 4), nn.GRUCell(size, 4)
        self.start = nn.Linear(size, 4)

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        h, outputs = x.new_zeros(x.shape[0], 4), []
        if self.how == "start":
            h = self.start(x[:, -1])
        for t in reversed(range(T)) if self.how == "backwards" else range(T):
            cell = self.other if self.how == "alternating" and t % 2 else self.cell
            h = cell(x[:, t], h)
            outputs.append(h * t / 10 if self.how == "counting" else h)
        return torch.stack(outputs[::-1] if self.how == "backwards" else outputs, 1)


class OverRows(Part):
    """`how`: "mean", "max", "softmax", "roll", "first", "standardised" (over rows and time)."""

    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "mean":
            return x - x.mean(0, keepdim=True)
        if self.how == "max":
            return x / (1 + x.abs().amax(0))
        if self.how == "softmax":
            return torch.softmax(x, dim=0)
        if self.how == "roll":
            return x + x.roll(1, 0)
        if self.how == "first":
            return x + x[:1]
        mean, var = x.mean((0, 1)), x.var((0, 1), unbiased=False)
        return (x - mean) / torch.sqrt(var + 1e-5)


# What streams by now, drawn as before so that a number draws what it drew, by what divides the chunk then.
NO_FLAWS = {"Packed": 1, "OddLoop(counting)": 1, "OddLoop(alternating)": 2}

# By name, and how each may be.
FLAWS: dict[str, dict[str, tuple[str, ...]]] = {
    "Bidirectional": {"cell": ("GRU", "LSTM", "RNN")},
    "Attention": {"how": ("matmul", "sdpa", "module", "causal")},
    "OverTime": {"how": ("softmax", "mean", "max", "flip", "roll", "standardised")},
    "Circular": {},
    "FromEnd": {},
    "Table": {},
    "OverRows": {"how": ("mean", "max", "softmax", "roll", "first", "standardised")},
    "Statistics": {"how": ("batch", "group", "instance")},
    "DataBranch": {},
    "Packed": {},
    "OddLoop": {"how": ("backwards", "alternating", "counting", "start")},
}
