"""Parts that a stream cannot have."""

from __future__ import annotations

from collections.abc import Callable
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


# Operators over the whole of time, of x (B, T, C).
OVER_TIME: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: torch.softmax(x, dim=1),
    "mean": lambda x: x - x.mean(1, keepdim=True),
    "max": lambda x: x / x.abs().amax(1, keepdim=True),
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(1, 1),
    "standardised": lambda x: (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + 1e-5),
}
# And over rows; "standardised" over rows and time.
OVER_ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x - x.mean(0, keepdim=True),
    "max": lambda x: x / (1 + x.abs().amax(0)),
    "softmax": lambda x: torch.softmax(x, dim=0),
    "roll": lambda x: x + x.roll(1, 0),
    "first": lambda x: x + x[:1],
    "standardised": lambda x: (x - x.mean((0, 1))) / torch.sqrt(x.var((0, 1), unbiased=False) + 1e-5),
}


class OverTime(Part):
    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return OVER_TIME[self.how](x)


class OverRows(Part):
    def __init__(self, size: int, how: str) -> None:
        super().__init__(size)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return OVER_ROWS[self.how](x)


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


# What streams by now, drawn as before so that a number draws what it drew, by what divides the chunk then.
NO_FLAWS = {"Packed": 1, "OddLoop(counting)": 1, "OddLoop(alternating)": 2}

# By name, and how each may be.
FLAWS: dict[str, dict[str, tuple[str, ...]]] = {
    "Bidirectional": {"cell": ("GRU", "LSTM", "RNN")},
    "Attention": {"how": ("matmul", "sdpa", "module", "causal")},
    "OverTime": {"how": tuple(OVER_TIME)},
    "Circular": {},
    "FromEnd": {},
    "Table": {},
    "OverRows": {"how": tuple(OVER_ROWS)},
    "Statistics": {"how": ("batch", "group", "instance")},
    "DataBranch": {},
    "Packed": {},
    "OddLoop": {"how": ("backwards", "alternating", "counting", "start")},
}
