"""Reshapes that take N frames at a time: blocks of samples, stacked frames, pyramids."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from .streams import Call, assert_streams


def by_samples(s, x):
    return s.out(s.gru(s.front(x.view(x.shape[0], -1, 16)))[0]).flatten(1)


def by_many(s, x):
    return s.gru(s.front(x.unflatten(1, (-1, 441))))[0]


def pyramid(s, x):
    y = s.first(x[:, : x.shape[1] // 6 * 6])[0]
    b, t, c = y.shape
    y = s.second(y.reshape(b, t // 2, 2 * c))[0]
    b, t, c = y.shape
    return s.third(y.contiguous().view(b, t // 3, -1))[0]


def columns(s, x):  # (batch, features, time) in blocks
    return s.gru(x.unflatten(-1, (-1, 4)).mean(-1).transpose(1, 2))[0]


def cells(*sizes: tuple[int, int]) -> list[nn.GRU]:
    torch.manual_seed(0)
    return [nn.GRU(*size, batch_first=True) for size in sizes]


BLOCKS = {
    "samples": (by_samples, {"front": nn.Linear(16, 8), "out": nn.Linear(5, 16)}, [(8, 5)], (1, 64), 16),
    "a pyramid": (pyramid, {}, [(4, 6), (12, 5), (15, 5)], (1, 24, 4), 6),
    "columns": (columns, {}, [(3, 5)], (1, 3, 32), 4),
    "of a length that nobody tries": (by_many, {"front": nn.Linear(441, 8)}, [(8, 5)], (1, 1764), 441),
}


@pytest.mark.parametrize(("forward", "parts", "sizes", "shape", "chunk"), BLOCKS.values(), ids=BLOCKS)
def test_frames_taken_several_at_a_time(forward, parts, sizes, shape, chunk):
    names = ("gru",) if len(sizes) == 1 else ("first", "second", "third")
    model = Call(forward, **parts, **dict(zip(names, cells(*sizes), strict=True)))
    assert_streams(model, torch.randn(shape), chunk=chunk)


def test_rows_that_are_unpacked_are_no_frames():
    """(B * F, ...) to (B, F, ...)."""
    over, gru = cells((3, 5), (35, 5))
    model = Call(lambda s, x: s.gru(s.over(x.flatten(0, 1))[0].reshape(*x.shape[:2], -1))[0], gru=gru, over=over)
    lifted = assert_streams(model, torch.randn(1, 9, 7, 3))
    assert [s.row for s in lifted.spec.states] == [(5,)]
