"""Masks and other tables of frames by frames that Python code fills row by row."""

import cProfile
import sys

import pytest
import torch
from torch import nn

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .nets import LoopAfterLoop
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))


def chunk_mask(size, chunk, left=-1, device=None):
    """As WeNet made them: each chunk, and some before it."""
    mask = torch.zeros(size, size, dtype=torch.bool, device=device)
    for i in range(size):
        start = 0 if left < 0 else max((i // chunk - left) * chunk, 0)
        mask[i, start : min((i // chunk + 1) * chunk, size)] = True
    return mask


def band_of_lists(size, *, width=4):
    return torch.tensor([[0 <= i - j < width for j in range(size)] for i in range(size)])


def added_band(size):
    """A bias of scores, less for farther frames."""
    table = torch.full((size, size), float("-inf"))
    for i in range(size):
        for j in range(max(i - 3, 0), i + 1):
            table[i, j] = (j - i) / 4
    return table


def distances(size, most):
    table = torch.zeros(size, size, dtype=torch.long)
    for i in range(size):
        table[i] = torch.arange(size).sub(i).clamp(-most, most) + most
    return table


def from_the_end(size):
    """A frame attends to none of the last ones but its own, however many there are."""
    mask = torch.eye(size, dtype=torch.bool)
    for i in range(size):
        mask[i, : max(size - 4 - i, 0)] = True
    return mask


def attention(scored):
    def forward(s, x):
        q, k, v = s.q(x), s.k(x), s.v(x)
        return scored(s, q @ k.mT, x.shape[1]).softmax(-1) @ v

    layers = {name: nn.Linear(8, 8) for name in "qkv"}
    return Call(forward, **layers, near=nn.Embedding(5, 1))


def masked(make):
    return lambda s, scores, size: scores.masked_fill(~make(size), float("-inf"))


def by_distance(s, scores, size):
    return masked(band_of_lists)(s, scores + s.near(distances(size, 2))[..., 0], size)


MADE = {
    "chunks and some before": (masked(lambda size: chunk_mask(size, 4, 2)), 3, {}),
    "device and numbers by name": (masked(lambda size: chunk_mask(size, chunk=2, left=1, device=X.device)), 1, {}),
    "all before, bounded": (masked(lambda size: chunk_mask(size, 1)), 0, {"max_context": 64}),
    "lists": (masked(band_of_lists), 0, {}),
    "added": (lambda s, scores, size: scores + added_band(size), 0, {}),
    "distances": (by_distance, 0, {}),
}


@pytest.mark.parametrize(("scored", "delay", "options"), MADE.values(), ids=MADE)
def test_a_table_that_a_loop_makes_is_looked_up(scored, delay, options):
    spec = assert_whole(attention(scored), X, time_axis=1, lengths=range(1, 9), atol=5e-6, **options).spec
    assert (spec.delay, spec.rows) == (delay, None)


def test_one_that_follows_from_the_length_is_refused():
    with raises("loop-looks-ahead", "test_made_tables.py:"):
        lift(attention(masked(from_the_end)), (X,), time_axis=1)


def test_functions_are_as_they_were():
    before = chunk_mask.__code__, chunk_mask.__defaults__
    lift(attention(MADE["chunks and some before"][0]), (X,), time_axis=1)
    assert (chunk_mask.__code__, chunk_mask.__defaults__) == before


def test_an_export_may_be_profiled():
    with cProfile.Profile() as profile:
        lift(LoopAfterLoop().eval(), (X[..., :4],))
        profiler = sys.getprofile()
    assert profiler is profile
