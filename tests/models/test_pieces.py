"""Loops over segments of frames that attend to each other, with or without frames before and after."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))


def attend(s, piece, seen):
    return (s.q(piece) @ s.k(seen).mT / math.sqrt(8)).softmax(-1) @ s.v(seen)


def split(s, x):
    return torch.cat([attend(s, piece, piece) for piece in x.split(4, 1)], 1)


def some_before(s, x, size=4, before=6):
    given = []
    for start in range(0, x.shape[1], size):
        given.append(attend(s, x[:, start : start + size], x[:, max(start - before, 0) : start + size]))
    return torch.cat(given, 1)


def some_before_of_zeros(s, x):
    padded = F.pad(x, (0, 0, 6, 0))
    given = []
    for start in range(0, x.shape[1], 4):
        given.append(attend(s, x[:, start : start + 4], padded[:, start : start + 10]))
    return torch.cat(given, 1)


def some_after(s, x):
    given = []
    for start in range(0, x.shape[1], 4):
        given.append(attend(s, x[:, start : start + 4], x[:, max(start - 4, 0) : start + 6]))
    return torch.cat(given, 1)


def remembered(s, x):
    before, given = x.new_zeros(x.shape[0], 6, 8), []
    for piece in x.split(4, 1):
        seen = torch.cat([before, piece], 1)
        given.append(attend(s, piece, seen))
        before = seen[:, -6:]
    return torch.cat(given, 1)


def twice(s, x):
    return some_before(s, torch.tanh(some_before(s, x)) + x, before=4)


def by_heads(s, x):
    """As MultiheadAttention makes them, whose rows are of batch and heads in one axis."""
    given = []
    for piece in x.split(4, 1):
        given.append(s.attention(piece, piece, piece)[0])
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


def model(forward):
    layers = {name: nn.Linear(8, 8) for name in "qkv"}
    return Call(forward, **layers, attention=nn.MultiheadAttention(8, 2, batch_first=True)).eval()


@pytest.mark.parametrize(
    "forward", [split, some_before, some_before_of_zeros, some_after, remembered, twice, by_heads, fused]
)
def test_a_step_takes_whole_pieces(forward):
    """The last piece of a sequence may have fewer frames, and the first ones fewer before them."""
    spec = assert_whole(model(forward), X, time_axis=1, chunk=4, lengths=range(1, 14), atol=5e-6).spec
    assert (spec.delay, spec.rows) == (4 if forward is some_after else 0, None)


def test_long_pieces_are_as_long_as_the_step():
    def forward(s, x):
        return some_before(s, x, size=24, before=30)

    lengths = range(20, 80, 13)
    assert assert_whole(model(forward), X, time_axis=1, chunk=24, lengths=lengths, atol=5e-6).spec.chunk == 24


def test_a_mean_over_each_piece_is_refused():
    def forward(s, x):
        return torch.cat([piece - piece.mean(1, keepdim=True) for piece in x.split(4, 1)], 1)

    with raises("loop-frames-unlike", "loops over time in Python"):
        lift(model(forward), (X,), time_axis=1, chunk=4)
