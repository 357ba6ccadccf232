"""Attention that a mask limits to a window of frames streams; attention to all frames is refused."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))  # (B, T, C)


def separate(frames: int) -> torch.Tensor:
    """(T, T): by how many frames a query is later than a key."""
    at = torch.arange(frames)
    return at[:, None] - at[None]


def band(frames: int, behind: int, ahead: int = 0) -> torch.Tensor:
    distance = separate(frames)
    return (distance >= -ahead) & (distance <= behind)


def fused(s, x, mask, scale=None):
    q, k, v = s.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2).flatten(2)


def shared_heads(s, x):
    """Four heads of queries, two of keys and values."""
    q = s.q(x).unflatten(2, (4, 2)).transpose(1, 2)
    k, v = s.kv(x).reshape(*x.shape[:2], 2, 2, 2).permute(2, 0, 3, 1, 4)
    mask = band(x.shape[1], 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2).flatten(2)


def by_hand(s, x):
    q, k, v = s.qkv(x).chunk(3, -1)
    scores = (q @ k.transpose(-2, -1) / math.sqrt(8)).masked_fill(~band(x.shape[1], 3), -torch.inf)
    return torch.softmax(scores, -1) @ v


def by_triangles(s, x):
    q, k, v = s.qkv(x).chunk(3, -1)
    allowed = torch.ones(x.shape[1], x.shape[1]).tril().triu(-3)
    return torch.softmax(q @ k.mT * 0.3 + (1 - allowed) * -1e9, -1) @ v


def slopes(s, x):
    distance = separate(x.shape[1]).float()
    return fused(s, x, torch.where(band(x.shape[1], 4), -0.3 * distance, -torch.inf))


def blocks(s, x):
    """Frames of a block of 4 attend to it, and to the one before."""
    block = torch.arange(x.shape[1]) // 4
    distance = block[:, None] - block[None]
    return fused(s, x, (distance >= 0) & (distance <= 1))


def with_first(frames, behind, first, ahead=0):
    """(T, T): frames of a band, and of those before it the first ones."""
    distance = separate(frames)
    return (distance >= -ahead) & ((distance <= behind) | (torch.arange(frames)[None] < first))


def first_extra(s, x):
    """The first two frames count less, or more, than others once they are far."""
    distance = separate(x.shape[1])
    bias = torch.where(distance > 3, torch.where(torch.arange(x.shape[1])[None] < 1, 0.7, -0.3), -0.1 * distance)
    return fused(s, x, torch.where(with_first(x.shape[1], 3, 2), bias, -torch.inf))


def heads(s, x):
    mask = ~band(x.shape[1], 5)
    return s.attend(x, x, x, attn_mask=mask)[0]


def sloped(s, x):
    """Frames far from the first differ from those before."""
    slopes = torch.where(with_first(x.shape[1], 3, 2), -0.1 * separate(x.shape[1]), -torch.inf)
    return fused(s, x, slopes)


def later_another(s, x):
    later = torch.arange(x.shape[1]) > 100
    return fused(s, x, band(x.shape[1], 3) & ~(later[:, None] & (separate(x.shape[1]) == 2)))


def limited(s, x):
    q, k, v = s.qkv(x).chunk(3, -1)
    scores = (q @ k.mT).clamp(-50, 50)
    return torch.softmax(scores.masked_fill(~band(x.shape[1], 3), -torch.inf), -1) @ v


def three(s, x):
    """With three rows, the frame stride of a part of `qkv` equals the length of that part."""
    q, k, v = s.qkv(x).chunk(3, -1)
    return s.attend(q, k, v, attn_mask=~band(x.shape[1], 2))[0]


def of_samples(s, x):
    """The frames that attend are fewer than those of the input."""
    y = s.frames(x.unsqueeze(1)).mT
    return fused(s, y, band(y.shape[1], 3)) + torch.arange(y.shape[1])[:, None] % 5


QKV, ATTEND = nn.Linear(8, 24), nn.MultiheadAttention(8, 2, batch_first=True)
ENCODER = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)


def two_layers(s, x):
    mask = ~band(x.shape[1], 2)
    return s.two(s.one(x, mask), mask)


def attention(function, example=X, chunk=1, **parts):
    return case(Call(function, qkv=QKV, **parts), example, time_axis=1, chunk=chunk)


def window(function, ahead, kept, **parts):
    """A step that waits for the frames ahead, and keeps so many."""
    return attention(function, **parts).streams(
        delay=ahead,
        tail=ahead,
        lengths=range(1, 14),
        holds=lambda lifted: next(s.row[-2] for s in lifted.spec.states if s.name.endswith("frames")) == kept,
    )


ALL_FRAMES = ("not-frame-local", "attention, or another product over time, looks at all frames")


def within(s, x, taken, bias=lambda i, j: 0 * (i - j)):
    """Attention of keys j that frames i take, both of the whole sequence, with a bias for each pair."""
    i, j = torch.arange(x.shape[1])[:, None], torch.arange(x.shape[1])
    q, k, v = s.qkv(x).chunk(3, -1)
    return (q @ k.mT + bias(i, j)).masked_fill(~taken(i, j), -torch.inf).softmax(-1) @ v


def last_four(i, j):
    return (j <= i) & (i - j < 4)


# What attention takes, and how it is biased, that a few thousand frames do not show.
FAR = {
    "narrower": [lambda i, j: (j <= i) & (i - j < torch.where(i > 5000, 2, 4))],
    "wider by and by": [lambda i, j: (j <= i) & (i - j < 4 + i // 5000)],
    "without a key": [lambda i, j: last_four(i, j) & ((j % 5000 != 4999) | (i == j))],
    "without the keys of a block": [lambda i, j: last_four(i, j) & ((j // 50 % 100 != 99) | (i == j))],
    "with a key far back": [lambda i, j: last_four(i, j) | (i - j == 5000)],
    "with one key for all after it": [lambda i, j: last_four(i, j) | ((j == 5000) & (j <= i))],
    "blocks that end": [lambda i, j: torch.where(i < 5000, i // 8 == j // 8, i == j)],
    "with another bias": [last_four, lambda i, j: torch.where(i > 5000, 0.5, 0.1) * (i - j)],
}
TABLE = {
    "attention that changes far away is refused": {
        name: attention(lambda s, x, given=given: within(s, x, *given)).refused("not-frame-local")
        for name, given in FAR.items()
    },
    "attention within a band streams": {
        "biased by distance": attention(lambda s, x: within(s, x, last_four, lambda i, j: (j - i) / 4)).streams(),
        "fused": window(lambda s, x: fused(s, x, band(x.shape[1], 4)), 0, 4),
        "with frames ahead": window(lambda s, x: fused(s, x, band(x.shape[1], 3, 2)), 2, 5),
        "with a scale of its own": attention(lambda s, x: fused(s, x, band(x.shape[1], 4), 0.9)).streams(),
        "with heads that share keys": attention(shared_heads, q=nn.Linear(8, 8), kv=nn.Linear(8, 8)).streams(),
        "by hand": window(by_hand, 0, 3),
        "by triangles": window(by_triangles, 0, 3),
        "slopes": window(slopes, 0, 4),
        "blocks": window(blocks, 3, 10),
        "and the first frames": window(first_extra, 0, 3),
        "first frames, frames ahead": window(lambda s, x: fused(s, x, with_first(x.shape[1], 1, 4, 2)), 2, 3),
        "a layer": window(heads, 0, 5, attend=ATTEND),
        "two layers": attention(two_layers, one=ENCODER, two=ENCODER).streams(delay=0),
        "scores with a limit": attention(limited).streams(
            lengths=range(5, 9), holds=lambda lifted: any("clamp" in str(n.target) for n in lifted.step.graph.nodes)
        ),
    },
    "attention at another rate streams": {
        "after a stride": attention(
            lambda s, x: three(s, s.c(x.mT).mT), chunk=2, c=nn.Conv1d(8, 8, 2, 2), attend=ATTEND
        ).streams(every=2),
        "before a pool": attention(lambda s, x: F.max_pool1d(by_hand(s, x).mT, 2).mT, chunk=2).streams(every=2),
        "of fewer frames": attention(lambda s, x: by_hand(s, s.c(x.mT).mT), c=nn.Conv1d(8, 8, 3)).streams(every=1),
        "behind a stride of samples": attention(
            of_samples, torch.randn(2, 320), chunk=20, frames=nn.Conv1d(1, 8, 20, 20)
        ).streams(delay=0, tail=0, lengths=range(19, 130, 13)),
    },
    "attention that is no window is refused": {
        "causal": attention(lambda s, x: F.scaled_dot_product_attention(x, x, x, is_causal=True)).refused(*ALL_FRAMES),
        "no mask": attention(lambda s, x: torch.softmax(x @ x.mT, -1) @ x).refused(*ALL_FRAMES),
        "other slopes far from the first": attention(sloped).refused("positions-over-time", "attention.py"),
        "a band that changes later": attention(later_another).refused("positions-over-time", "attention.py"),
    },
}
