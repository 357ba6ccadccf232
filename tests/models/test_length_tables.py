"""Masks and other tables of frames by frames, computed in `forward` from the length."""

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


def attention(forward):
    layers = {name: nn.Linear(8, 8) for name in "qkv"}
    return Call(forward, **layers, cell=nn.GRUCell(8, 8))


def masked(s, x, mask):
    scores = (s.q(x) @ s.k(x).mT).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ s.v(x)


def lists(s, x):
    size = x.shape[1]
    return masked(s, x, torch.tensor([[0 <= i - j < 4 for j in range(size)] for i in range(size)]))


def written(s, x):
    mask = torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool)
    for i in range(x.shape[1]):
        mask[i, max(i - 3, 0) : i + 1] = True
    return masked(s, x, mask)


def stacked(s, x):
    rows = []
    for i in range(x.size(1)):
        row = x.new_zeros(x.size(1))
        row[max(i - 3, 0) : i + 1] = 1
        rows.append(row)
    return masked(s, x, torch.stack(rows).bool())


def segments(s, x):
    """Blocks of ones and zeros joined, as Emformers make them."""
    size, rows = x.size(1), []
    for n in range(math.ceil(size / 4)):
        start, end = max(4 * n - 4, 0), min(4 * n + 4, size)
        high = min(4, size - 4 * n)
        rows.append(
            torch.cat([torch.zeros(high, start), torch.ones(high, end - start), torch.zeros(high, size - end)], 1)
        )
    return masked(s, x, torch.cat(rows).bool())


def without_context(s, x):
    """A look-ahead of no frames is joined of empty pieces."""
    ahead = torch.cat([x[:, start:start] for start in range(0, x.shape[1], 4)], 1)
    return written(s, torch.cat([ahead, x], 1))


def fused(s, x):
    """By heads, with what is added to their scores."""
    size = x.shape[1]
    added = torch.tensor([[0.0 if 0 <= i - j < 4 else -math.inf for j in range(size)] for i in range(size)])
    q, k, v = (layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (s.q, s.k, s.v))
    return F.scaled_dot_product_attention(q, k, v, added[None, None]).transpose(1, 2).flatten(2)


def all_before(s, x):
    size = x.shape[1]
    return masked(s, x, torch.tensor([[j <= i for j in range(size)] for i in range(size)]))


def before_a_loop(s, x):
    h, ys = torch.zeros(x.shape[0], 8), []
    for frame in lists(s, x).unbind(1):
        h = s.cell(frame, h)
        ys.append(h)
    return torch.stack(ys, 1)


MADE = {
    "lists": (lists, 0, {}),
    "written": (written, 0, {}),
    "stacked": (stacked, 0, {}),
    "segments": (segments, 3, {}),
    "without context": (without_context, 0, {}),
    "fused": (fused, 0, {}),
    "all before, bounded": (all_before, 0, {"max_context": 64}),
    "before a loop": (before_a_loop, 0, {}),
}


@pytest.mark.parametrize(("forward", "delay", "options"), MADE.values(), ids=MADE)
def test_a_table_made_in_forward_is_looked_up(forward, delay, options):
    spec = assert_whole(attention(forward), X, time_axis=1, lengths=range(1, 9), atol=5e-6, **options).spec
    assert (spec.delay, spec.rows) == (delay, None)


def test_one_whose_band_follows_from_the_length_is_refused():
    def half(s, x):
        size = x.shape[1]
        return masked(s, x, torch.tensor([[0 <= 2 * (i - j) <= size for j in range(size)] for i in range(size)]))

    with raises("loop-table-of-length"):
        lift(attention(half), (X,), time_axis=1)
