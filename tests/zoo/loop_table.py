"""Loops by their parameters: a prologue of k iterations, a period of p, a window of w frames, and what rests of them.

Each row is one loop with a state of some shape. The last rows are loops as they are written.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import Case, case

X = torch.randn(2, 24, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)


class Hidden:
    """(B, H)."""

    def start(self, x: Tensor):
        return x.new_zeros(len(x), 6)

    def step(self, net, v, h):
        return net.cell(v, h)

    def read(self, h):
        return h


class Pair(Hidden):
    """Two of (B, H)."""

    def start(self, x):
        return x.new_zeros(len(x), 6), x.new_zeros(len(x), 6)

    def step(self, net, v, h):
        return net.lstm(v, h)

    def read(self, h):
        return h[0]


class Matrix(Hidden):
    """(B, H, C)."""

    def start(self, x):
        return x.new_zeros(len(x), 6, 4)

    def step(self, net, v, h):
        return 0.9 * h + net.k(v)[:, :, None] * v[:, None]

    def read(self, h):
        return h.sum(2)


class Scalar(Hidden):
    """(B,)."""

    def start(self, x):
        return x.new_zeros(len(x))

    def step(self, net, v, h):
        return 0.8 * h + v.mean(1)

    def read(self, h):
        return h[:, None].expand(len(h), 6)


class Ring(Hidden):
    """(B, C, 3), the last three values."""

    def start(self, x):
        return x.new_zeros(len(x), 4, 3)

    def step(self, net, v, h):
        return torch.cat([h[:, :, 1:], v[:, :, None]], 2)

    def read(self, h):
        return torch.cat([h.sum(2), h[:, :2, 0]], 1)


class Layers(Hidden):
    """A list of (B, H), one of each layer."""

    def start(self, x):
        return [x.new_zeros(len(x), 6)] * 2

    def step(self, net, v, h):
        first = net.cell(v, h[0])
        return [first, net.over(first, h[1])]

    def read(self, h):
        return h[1]


class Stacked(Layers):
    """(L, B, H)."""

    def start(self, x):
        return x.new_zeros(2, len(x), 6)

    def step(self, net, v, h):
        return torch.stack(super().step(net, v, h))


class Named(Hidden):
    """A dict of two sizes."""

    def start(self, x):
        return {"h": x.new_zeros(len(x), 6), "n": x.new_zeros(len(x), 1)}

    def step(self, net, v, h):
        return {"h": net.cell(v, h["h"]), "n": h["n"] * 0.5 + 1}

    def read(self, h):
        return h["h"] * h["n"]


class Listed(Hidden):
    """A list of all values, of which two are read."""

    def start(self, x):
        return []

    def step(self, net, v, h):
        new = net.k(v)
        if h:
            new = new + 0.5 * h[-1]
        if len(h) > 1:
            new = new - 0.2 * h[-2].tanh()
        return [*h, new]

    def read(self, h):
        return h[-1]


class Missing(Hidden):
    """None at first."""

    def start(self, x):
        return None

    def step(self, net, v, h):
        return net.k(v).tanh() if h is None else net.cell(v, h)


class Net(nn.Module):
    """A loop with these parameters; `first` is what its first `k` iterations do, and `rest` what a last window does."""

    def __init__(self, state, k=0, p=1, w=1, rest="ragged", first="other"):
        super().__init__()
        self.cell, self.lstm, self.over = nn.GRUCell(4, 6), nn.LSTMCell(4, 6), nn.GRUCell(6, 6)
        self.k, self.c, self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 4), nn.Linear(4, 4)
        self.state, self.first_ones, self.period, self.window = state, k, p, w
        self.rest, self.first = rest, first

    def forward(self, x):
        h, given, w = self.state.start(x), [x.new_zeros(len(x), 0, 6)], self.window
        for i, start in enumerate(range(0, x.shape[1], w)):
            piece = x[:, start : start + w] if w > 1 else x[:, start]
            few = piece.shape[1] if w > 1 else 1
            if w > 1 and few < w and self.rest == "dropped":
                break
            if w > 1 and few < w and self.rest == "padded":
                piece = F.pad(piece, (0, 0, 0, w - few))
            does, v = self.one(i, piece.sum(1) if w > 1 else piece)
            h = h if does == "keep" else self.state.step(self, v, h)
            y = self.c(v) if does == "skip" else self.state.read(h)
            given.append((self.k(piece) * y[:, None])[:, :few] if w > 1 else y[:, None])
        return torch.cat(given, 1)

    def one(self, i, v):
        """The work of an iteration by name, and the value that it takes."""
        if i < self.first_ones:
            does = {"other": self.a(v).relu(), "each": v * (0.5 + i)}
            return self.first, does.get(self.first, v)
        if self.period > 1 and i % self.period == self.period - 1:
            return "", self.b(v)
        return "keep" if self.period > 2 and i % self.period == 1 else "", v


def row(state, **parameters) -> Case:
    return case(lambda: Net(state(), **parameters), X, time_axis=1).streams()


def rows(*cases: tuple) -> dict[str, Case]:
    named = ((" ".join([s.__name__.lower(), *(f"{k}={v}" for k, v in given.items())]), s, given) for s, given in cases)
    return {name: row(s, **given) for name, s, given in named}


# --- loops as they are written


def loop(x, step, h):
    given = []
    for t in range(x.shape[1]):
        h = step(t, h)
        given.append(h)
    return torch.stack(given, 1)


def zeros(x):
    return x.new_zeros(len(x), 6)


def windows_of_padded(s, x):
    seen = F.pad(x, (0, 0, 3, 0))
    return torch.stack([s.k(seen[:, t : t + 4].mean(1)) for t in range(x.shape[1])], 1)


def windows_cut_at_the_start(s, x):
    return torch.stack([s.k(x[:, max(t - 3, 0) : t + 1].mean(1)) for t in range(x.shape[1])], 1)


def windows_by_hops(s, x):
    h, given = zeros(x), []
    for start in range(0, x.shape[1] - 3, 2):
        h = s.cell(x[:, start : start + 4].mean(1), h)
        given.append(h)
    return torch.stack(given, 1)


def one_frame_ahead(s, x):
    ahead = F.pad(x, (0, 0, 0, 1))
    return loop(x, lambda t, h: s.cell(x[:, t] - ahead[:, t + 1], h), zeros(x))


def two_for_each(s, x):
    h, given = zeros(x), []
    for frame in x.unbind(1):
        h = s.cell(frame, h)
        given += [h, s.over(h, h)]
    return torch.stack(given, 1)


def two_of_three(s, x):
    h, given = zeros(x), []
    for t in range(x.shape[1]):
        h = s.cell(x[:, t], h)
        if t % 3:
            given.append(h)
    return torch.stack(given, 1)


def none_of_the_first(s, x):
    return loop(x, lambda t, h: s.cell(x[:, t], h), zeros(x))[:, 3:] * 2


def joined_from_the_fourth(s, x):
    h, given = zeros(x), []
    for t in range(x.shape[1]):
        h = s.cell(x[:, t], h)
        if t >= 3:
            given.append(h)
    return torch.stack(given, 1)


def pieces_written(s, x):
    out, h = x.new_zeros(*x.shape[:2], 6), zeros(x)
    for start in range(0, x.shape[1], 4):
        piece = x[:, start : start + 4]
        h = s.cell(piece.sum(1), h)
        out[:, start : start + 4] = s.k(piece) + h[:, None]
    return out


def a_row_for_each_of_four(s, x):
    return loop(x, lambda t, h: s.cell(x[:, t] + s.table[t % 4], h), zeros(x))


def a_factor_for_every_other_piece(s, x):
    h, given = None, []
    for i, piece in enumerate(x.split(3, 1)):
        y, h = s.gru(piece * (1 + i % 2), h)
        given.append(y)
    return torch.cat(given, 1)


PARTS = {
    "cell": nn.GRUCell(4, 6),
    "over": nn.GRUCell(6, 6),
    "k": nn.Linear(4, 6),
    "gru": nn.GRU(4, 6, batch_first=True),
    "table": nn.Parameter(torch.randn(4, 4)),
}


def written(function, **expected) -> Case:
    return case(Call(function, **PARTS), X, time_axis=1).streams(**expected)


TABLE = {
    "a prologue of k iterations": rows(
        (Matrix, {"k": 3}),
        (Scalar, {"k": 5}),
        (Ring, {"k": 3, "first": "each"}),
        (Listed, {"k": 2}),
        (Missing, {"k": 4}),
        (Hidden, {"k": 2, "first": "skip"}),
        (Pair, {"k": 3, "first": "keep"}),
    ),
    "a period of p iterations": rows(
        (Hidden, {"p": 2}),
        (Pair, {"p": 3}),
        (Matrix, {"p": 4}),
        (Scalar, {"p": 5}),
        (Layers, {"p": 3}),
    ),
    "a window of w frames": rows(
        (Hidden, {"w": 2}),
        (Pair, {"w": 3, "rest": "padded"}),
        (Matrix, {"w": 4, "rest": "dropped"}),
        (Scalar, {"w": 5}),
        (Stacked, {"w": 4}),
        (Listed, {"w": 2, "rest": "dropped"}),
    ),
    "a prologue, a period and windows": rows(
        (Scalar, {"k": 1, "p": 3}),
        (Scalar, {"k": 2, "w": 3}),
        (Pair, {"p": 2, "w": 3, "rest": "padded"}),
        (Matrix, {"p": 3, "w": 2, "rest": "dropped"}),
        (Ring, {"p": 3, "w": 3, "rest": "padded"}),
        (Scalar, {"p": 2, "w": 4}),
        (Matrix, {"k": 2, "w": 2, "rest": "dropped"}),
    ),
    "windows, frames ahead, and other numbers of results": {
        "windows of padded frames": written(windows_of_padded),
        "windows cut at the start": written(windows_cut_at_the_start),
        "windows by hops": written(windows_by_hops, lengths=range(4, 20, 2)),
        "a frame ahead": written(one_frame_ahead, delay=1),
        "two for each frame": written(two_for_each),
        "two of three frames": written(two_of_three, lengths=range(2, 14)),
        "none of the first": written(none_of_the_first, lengths=range(4, 14)),
        "joined from the fourth": written(joined_from_the_fourth, lengths=range(4, 14)),
        "pieces written": written(pieces_written),
        "a row for each of four": written(a_row_for_each_of_four),
        "a factor for every other piece": written(a_factor_for_every_other_piece),
    },
}
