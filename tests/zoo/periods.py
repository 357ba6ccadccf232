"""Loops whose body varies with a fixed period, and loops over pieces of frames that attend to each other."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)
WIDE = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
EVERY = (1, 2, 4)


def another_cell(s, x):
    h, given = x.new_zeros(len(x), 6), []
    for t in range(x.shape[1]):
        h = s.first(x[:, t], h) * 0.9 if t % 2 == 0 else s.second(x[:, t], h)
        given.append(h)
    return torch.stack(given, 1)


def a_layer_now_and_then(s, x):
    h = slow = x.new_zeros(len(x), 6)
    given = torch.empty(len(x), x.shape[1], 6)
    for t, frame in enumerate(x.unbind(1)):
        h = s.first(frame, h)
        if t % 3 == 0:
            slow = s.over(h, slow)
        given[:, t] = h + slow
    return given


def clockwork(s, x):
    parts, given = [x.new_zeros(len(x), 6)] * 3, []
    for t in range(x.shape[1]):
        known = torch.cat([x[:, t], *parts], 1)
        parts = [
            p if t % every else layer(known).tanh() for p, layer, every in zip(parts, s.layers, EVERY, strict=True)
        ]
        given.append(torch.cat(parts, 1))
    return torch.stack(given, 1)


def some_frames(s, x):
    h, given = x.new_zeros(len(x), 6), []
    for t in range(x.shape[1]):
        h = s.first(x[:, t], h)
        if t % 3 == 2:
            given.append(h)
    return torch.stack(given, 1)


def behind_another_loop(s, x):
    h, given = x.new_zeros(len(x), 4), []
    for frame in x.unbind(1):
        h = s.before(frame, h)
        given.append(h)
    return another_cell(s, torch.stack(given, 1))


def and_the_last_frame(s, x):
    y = another_cell(s, x)
    return y, s.over(y[:, -1])


def another_cell_at_100(s, x):
    h, given = x.new_zeros(len(x), 6), []
    for t, frame in enumerate(x.unbind(1)):
        h = s.second(frame, h) if t == 100 else s.first(frame, h)
        given.append(h)
    return torch.stack(given, 1)


def pieces_split(s, x):
    h, given = None, []
    for piece in x.split(4, 1):
        y, h = s.layer(piece, h)
        given.append(y)
    return torch.cat(given, 1)


def pieces_cut(s, x):
    """Each begins with what a cell makes of the last frame of the one before."""
    h, given = x.new_zeros(1, len(x), 6), []
    for start in range(0, x.shape[1], 3):
        y, _ = s.layer(x[:, start : start + 3], h)
        h = s.over(y[:, -1], h[0])[None]
        given.append(y.cumsum(1))
    return torch.cat(given, 1)


# --- attention within pieces


def attend(s, piece, seen):
    return (s.q(piece) @ s.k(seen).mT / math.sqrt(8)).softmax(-1) @ s.v(seen)


def with_others(s, x, before, after, size=4):
    """Pieces that attend to frames before them and after their first."""
    given = []
    for start in range(0, x.shape[1], size):
        given.append(attend(s, x[:, start : start + size], x[:, max(start - before, 0) : start + after]))
    return torch.cat(given, 1)


def some_before_of_zeros(s, x):
    padded = F.pad(x, (0, 0, 6, 0))
    given = []
    for start in range(0, x.shape[1], 4):
        given.append(attend(s, x[:, start : start + 4], padded[:, start : start + 10]))
    return torch.cat(given, 1)


def remembered(s, x):
    before, given = x.new_zeros(x.shape[0], 6, 8), []
    for piece in x.split(4, 1):
        seen = torch.cat([before, piece], 1)
        given.append(attend(s, piece, seen))
        before = seen[:, -6:]
    return torch.cat(given, 1)


def fused(s, x):
    given = []
    for start in range(0, x.shape[1], 4):
        piece, seen = x[:, start : start + 4], x[:, max(start - 4, 0) : start + 4]
        q, k, v = (
            layer(y).unflatten(2, (2, 4)).transpose(1, 2) for layer, y in ((s.q, piece), (s.k, seen), (s.v, seen))
        )
        given.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return torch.cat(given, 1)


def each(function):
    return lambda s, x: torch.cat([function(s, piece) for piece in x.split(4, 1)], 1)


PARTS = {
    "first": nn.GRUCell(4, 6),
    "second": nn.GRUCell(4, 6),
    "over": nn.GRUCell(6, 6),
    "before": nn.GRUCell(4, 4),
    "layer": nn.GRU(4, 6, batch_first=True),
    "window": nn.Conv1d(4, 4, 2),
    "stride": nn.Conv1d(4, 4, 3, stride=2, padding=1),
    "layers": nn.ModuleList(nn.Linear(22, 6) for _ in range(3)),
}
ATTENDING = {
    **{name: nn.Linear(8, 8) for name in "qkv"},
    "attention": nn.MultiheadAttention(8, 2, batch_first=True),
}


def loop(function, chunk=1):
    return case(Call(function, **PARTS), X, chunk=chunk)


def whole_periods(function, period, rest=None):
    """The end of a sequence gives what its last frames give, which are no whole period."""
    return loop(function, period).streams(delay=0, tail=period - 1 if rest is None else rest, lengths=range(1, 14))


def attending(function, chunk=4):
    return case(Call(function, **ATTENDING), WIDE, time_axis=1, chunk=chunk)


def pieces(function, delay=0):
    """The last piece of a sequence may have fewer frames, and the first ones fewer before them."""
    return attending(function).streams(
        delay=delay, lengths=range(1, 14), atol=5e-6, holds=lambda lifted: lifted.spec.rows is None
    )


TABLE = {
    "a step takes whole periods": {
        "another cell": whole_periods(another_cell, 2),
        "pieces, split": whole_periods(pieces_split, 4),
        "a layer now and then": whole_periods(a_layer_now_and_then, 3),
        "clockwork": whole_periods(clockwork, 4),
        "some frames": whole_periods(some_frames, 3, rest=0),
        "pieces, cut": whole_periods(pieces_cut, 3),
        "behind another loop": loop(behind_another_loop, 2).streams(lengths=range(2, 14)),
        "of fewer frames than the input": loop(lambda s, x: another_cell(s, s.window(x.mT).mT), 2).streams(
            lengths=range(2, 14)
        ),
        "of half the frames": loop(lambda s, x: another_cell(s, s.stride(x.mT).mT), 4).streams(lengths=range(2, 14)),
    },
    "a loop that no period describes is refused": {
        "what is as of the last frame": loop(and_the_last_frame, 2).refused("last-frame-looks-ahead"),
        "other weights at a frame far away": loop(another_cell_at_100).refused(
            "loop-body-unlike", "not every one goes through the same operators", "with second"
        ),
    },
    "a step takes whole pieces that attend": {
        "of themselves": pieces(each(lambda s, piece: attend(s, piece, piece))),
        "to zeros before": pieces(some_before_of_zeros),
        "to some before": pieces(lambda s, x: with_others(s, x, 6, 4)),
        "to some after": pieces(lambda s, x: with_others(s, x, 4, 6), delay=4),
        "to what is remembered": pieces(remembered),
        "twice": pieces(lambda s, x: with_others(s, torch.tanh(with_others(s, x, 4, 4)) + x, 4, 4)),
        # As MultiheadAttention makes them, whose rows are of batch and heads in one axis.
        "by heads": pieces(each(lambda s, piece: s.attention(piece, piece, piece)[0])),
        "fused": pieces(fused),
        "long": attending(lambda s, x: with_others(s, x, 30, 24, size=24), 24).streams(
            chunk=24, lengths=range(20, 80, 13), atol=5e-6
        ),
        "but no mean": attending(each(lambda s, piece: piece - piece.mean(1, keepdim=True))).refused(
            "loop-frames-unlike", "loops over time in Python"
        ),
    },
}
