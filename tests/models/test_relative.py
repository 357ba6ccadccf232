"""Relative position scores in an attention window, as published; those that vary along it are refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))  # (B, T, C)
WIDTH = 4


def sines(positions):
    """(T, 8)"""
    angles = positions[:, None] / 100 ** (torch.arange(4) / 4)
    return torch.cat([angles.sin(), angles.cos()], -1)


def heads(x):
    """(B, 2, T, 4) of (B, T, 8)"""
    return x.unflatten(2, (2, 4)).transpose(1, 2)


def both_branches(s, q):
    """(B, H, T, 2 T - 1): against every position relative to a frame, the farthest back first."""
    frames = q.shape[2]
    return q @ heads(s.p(sines(torch.arange(frames - 1, -frames, -1.0)))[None]).transpose(-2, -1)


def joined(s, q):
    """Conformers of ESPnet: a column of zeros in front, seen in rows of another length."""
    scores = both_branches(s, q)
    rows, frames, columns = scores.shape[0], *scores.shape[2:]
    padded = torch.cat([scores.new_zeros(rows, 2, frames, 1), scores], -1).view(rows, 2, columns + 1, frames)
    return padded[:, :, 1:].view_as(scores)[..., :frames]


def padded(s, q):
    """Conformers of NeMo."""
    scores = both_branches(s, q)
    rows, frames, columns = scores.shape[0], *scores.shape[2:]
    return F.pad(scores, (1, 0)).view(rows, 2, -1, frames)[:, :, 1:].view(rows, 2, frames, columns)[..., :frames]


def strided(s, q):
    """Zipformers."""
    scores = both_branches(s, q).contiguous()
    rows, head, frame, column = scores.stride()
    frames = q.shape[2]
    sizes, strides = (q.shape[0], 2, frames, frames), (rows, head, frame - column, column)
    return scores.as_strided(sizes, strides, storage_offset=column * (frames - 1))


def causal(s, q):
    """Transformer-XL as first published: what lies after a frame is of the next one."""
    frames = q.shape[2]
    scores = q @ heads(s.p(sines(torch.arange(frames - 1, -1, -1.0)))[None]).transpose(-2, -1)
    zeros = scores.new_zeros(q.shape[0], 2, frames, 1)
    return torch.cat([zeros, scores], -1).view(q.shape[0], 2, frames + 1, frames)[:, :, 1:]


def picked(s, q):
    """By number, as far as a table goes."""
    at = torch.arange(q.shape[2])
    numbers = (at[:, None] - at[None]).clamp(-3, 3) + 3
    return torch.gather(q @ s.e.weight.mT, -1, numbers.expand(q.shape[0], 2, -1, -1))


def by_key(s, q):
    """WeNet: each key has a position of its own."""
    return q @ heads(s.p(sines(torch.arange(q.shape[2]).float()))[None]).transpose(-2, -1)


def from_end(s, q):
    """Positions counted from the end of the sequence, which no stream knows."""
    return q @ heads(s.p(sines(torch.arange(q.shape[2] - 1, -1, -1.0)))[None]).transpose(-2, -1)


def stretched(s, q):
    """The same, and moved, so that each frame has another row of the table."""
    return torch.cat([from_end(s, q)[..., 1:], q.new_zeros(q.shape[0], 2, q.shape[2], 1)], -1)


def attention(scores, ahead=0, fused=False):
    def forward(s, x):
        q, k, v = map(heads, s.qkv(x).chunk(3, -1))
        distance = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])[None]
        mask = (distance < -ahead) | (distance >= WIDTH)
        moved = scores(s, q + s.bias) / 2
        if fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=moved.masked_fill(mask, -torch.inf))
        else:
            weights_of_attention = torch.softmax((q @ k.transpose(-2, -1) / 2 + moved).masked_fill(mask, -1e9), -1)
            y = weights_of_attention.masked_fill(mask, 0.0) @ v
        return y.transpose(1, 2).flatten(2)

    torch.manual_seed(0)
    parts = {"qkv": nn.Linear(8, 24), "p": nn.Linear(8, 8, bias=False), "e": nn.Embedding(7, 4)}
    return Call(forward, bias=nn.Parameter(torch.randn(2, 1, 4)), **parts)


STREAMED = {
    "joined": (attention(joined), 0),
    "padded, for a fused product": (attention(padded, fused=True), 0),
    "strided, with frames ahead": (attention(strided, ahead=2), 2),
    "causal": (attention(causal), 0),
    "picked": (attention(picked), 0),
    "by key": (attention(by_key), 0),
}


@pytest.mark.parametrize(("model", "delay"), STREAMED.values(), ids=STREAMED)
def test_relative_positions_within_a_band_stream(model, delay):
    spec = assert_whole(model, X, time_axis=1, lengths=range(1, 8)).spec
    assert spec.delay == delay
    assert max(s.row[-2] for s in spec.states if len(s.row) == 3) == WIDTH - 1 + delay


@pytest.mark.parametrize("scores", [from_end, stretched])
def test_positions_from_the_end_are_refused(scores):
    with raises("positions-over-time" if scores is from_end else "not-frame-local", "test_relative.py:"):
        lift(attention(scores), (X,), time_axis=1)


def banded(frames):
    separate = torch.arange(frames)[:, None] - torch.arange(frames)
    return (separate >= 0) & (separate < WIDTH)


def rows_by_distance(table, frames):
    """(T, T, 4): the row of a table of so many distances, farther ones with the last, as Shaw has them."""
    numbers = torch.arange(frames)
    return table((numbers - numbers[:, None]).clamp(-2, 2) + 2)


def by_einsum(s, q):
    return torch.einsum("bhid,ijd->bhij", q, rows_by_distance(s.near, q.shape[2]))


def by_frames(s, q):
    """A product for each frame, of the queries of all streams and heads."""
    rows, heads_, frames, size = q.shape
    turned = q.permute(2, 0, 1, 3).reshape(frames, rows * heads_, size)
    scores = torch.matmul(turned, rows_by_distance(s.near, frames).transpose(1, 2))
    return scores.transpose(0, 1).reshape(rows, heads_, frames, frames)


def by_sums(s, q):
    return (q.unsqueeze(3) * rows_by_distance(s.near, q.shape[2])).sum(-1)


def of_heads(s, q):
    """A table of its own for each head."""
    table = rows_by_distance(s.of_heads, q.shape[2]).unflatten(-1, (2, 4))
    return torch.einsum("bhid,ijhd->bhij", q, table)


def by_shaw(scores, values=False):
    def forward(s, x):
        q, k, v = (heads(layer(x)) for layer in (s.q, s.k, s.v))
        both = (q @ k.transpose(-2, -1) + scores(s, q)) / 2
        weights_of_attention = both.masked_fill(~banded(x.shape[1]), float("-inf")).softmax(-1)
        y = weights_of_attention @ v
        if values:
            y = y + torch.einsum("bhij,ijd->bhid", weights_of_attention, rows_by_distance(s.far, x.shape[1]))
        return y.transpose(1, 2).flatten(2)

    tables = {"near": nn.Embedding(5, 4), "far": nn.Embedding(5, 4), "of_heads": nn.Embedding(5, 8)}
    return Call(forward, q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8), **tables)


@pytest.mark.parametrize("values", [False, True], ids=["scores", "values"])
@pytest.mark.parametrize("scores", [by_einsum, by_frames, by_sums, of_heads])
def test_tables_of_frames_by_frames_are_rows_of_a_band(scores, values):
    spec = assert_whole(by_shaw(scores, values), X, time_axis=1, lengths=range(1, 8), atol=5e-6).spec
    assert spec.delay == 0


def by_frame(s, q):
    """The bias follows from the frame itself, and not from the distance of a key."""
    frames = q.shape[2]
    return torch.einsum("bhid,ijd->bhij", q, torch.arange(frames).sin()[:, None, None].expand(frames, frames, 4))


def test_a_table_that_differs_from_frame_to_frame_is_refused():
    with raises("not-frame-local", "looks at all frames"):
        lift(by_shaw(by_frame), (X,), time_axis=1)
