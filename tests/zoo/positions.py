"""Attention with scores by position, or within chunks of frames, streams; what is counted from the end is refused."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .attention import X, band, separate
from .case import case

WIDTH, PIECE = 4, 4


def heads(x):
    """(B, 2, T, 4) of (B, T, 8)"""
    return x.unflatten(2, (2, 4)).transpose(1, 2)


def attended(s, x, taken, relative=None, values=None, fused=False, typed=False):
    q, k, v = map(heads, s.qkv(x).chunk(3, -1))
    moved = relative(s, q) if relative else 0
    if fused:
        mask = (moved / 2).masked_fill(~taken, -torch.inf) if relative else taken
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    scores = ((q @ k.mT + moved) / 2).masked_fill(taken.eq(0), -1e9 if relative else -torch.inf)
    probabilities = scores.float().softmax(-1).type_as(v) if typed else scores.softmax(-1)
    probabilities = probabilities.masked_fill(~taken, 0.0)
    y = probabilities @ v if values is None else probabilities @ v + values(s, probabilities)
    return y.transpose(1, 2).flatten(2)


def model(function):
    return Call(
        function,
        qkv=nn.Linear(8, 24),
        p=nn.Linear(8, 8, bias=False),
        bias=nn.Parameter(torch.randn(2, 1, 4)),
        conv=nn.Conv1d(8, 8, 3, groups=8),
        far_or_near=nn.Embedding(7, 4),
        near=nn.Embedding(5, 4),
        values=nn.Embedding(5, 4),
        of_heads=nn.Embedding(5, 8),
    )


# --- scores by position


def sines(positions):
    """(T, 8)"""
    angles = positions[:, None] / 100 ** (torch.arange(4) / 4)
    return torch.cat([angles.sin(), angles.cos()], -1)


def against(s, q, *positions):
    """(B, H, T, positions)"""
    return (q + s.bias) @ heads(s.p(sines(torch.arange(*positions)))[None]).transpose(-2, -1)


def both_branches(s, q):
    """Against every position relative to a frame, the farthest back first."""
    return against(s, q, q.shape[2] - 1, -q.shape[2], -1.0)


def joined(s, q):
    """Conformers of ESPnet: a column of zeros in front, seen in rows of another length."""
    scores = both_branches(s, q)
    rows, frames, columns = scores.shape[0], *scores.shape[2:]
    filled = torch.cat([scores.new_zeros(rows, 2, frames, 1), scores], -1).view(rows, 2, columns + 1, frames)
    return filled[:, :, 1:].view_as(scores)[..., :frames]


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
    rows, frames = q.shape[0], q.shape[2]
    scores = against(s, q, frames - 1, -1, -1.0)
    return torch.cat([scores.new_zeros(rows, 2, frames, 1), scores], -1).view(rows, 2, frames + 1, frames)[:, :, 1:]


def picked(s, q):
    """By number, as far as a table goes."""
    numbers = separate(q.shape[2]).clamp(-3, 3) + 3
    return torch.gather((q + s.bias) @ s.far_or_near.weight.mT, -1, numbers.expand(q.shape[0], 2, -1, -1))


def by_key(s, q):
    """WeNet: each key has a position of its own."""
    return against(s, q, 0.0, q.shape[2])


def from_end(s, q):
    """Positions counted from the end of the sequence, which no stream knows."""
    return against(s, q, q.shape[2] - 1, -1, -1.0)


def stretched(s, q):
    """The same, and moved, so that each frame has another row of the table."""
    return torch.cat([from_end(s, q)[..., 1:], q.new_zeros(q.shape[0], 2, q.shape[2], 1)], -1)


def rows_by_distance(table, frames):
    """(T, T, 4): the row of a table of so many distances, farther ones with the last, as Shaw has them."""
    return table((-separate(frames)).clamp(-2, 2) + 2)


def by_einsum(s, q):
    return torch.einsum("bhid,ijd->bhij", q, rows_by_distance(s.near, q.shape[2]))


def by_frames(s, q):
    """A product for each frame, of the queries of all streams and heads."""
    rows, count, frames, size = q.shape
    turned = q.permute(2, 0, 1, 3).reshape(frames, rows * count, size)
    scores = torch.matmul(turned, rows_by_distance(s.near, frames).transpose(1, 2))
    return scores.transpose(0, 1).reshape(rows, count, frames, frames)


def by_sums(s, q):
    return (q.unsqueeze(3) * rows_by_distance(s.near, q.shape[2])).sum(-1)


def of_heads(s, q):
    """A table of its own for each head."""
    return torch.einsum("bhid,ijhd->bhij", q, rows_by_distance(s.of_heads, q.shape[2]).unflatten(-1, (2, 4)))


def values_too(s, probabilities):
    return torch.einsum("bhij,ijd->bhid", probabilities, rows_by_distance(s.values, probabilities.shape[2]))


def by_frame(s, q):
    """The bias follows from the frame itself, and not from the distance of a key."""
    frames = q.shape[2]
    return torch.einsum("bhid,ijd->bhij", q, torch.arange(frames).sin()[:, None, None].expand(frames, frames, 4))


def scored(relative, ahead=0, **how):
    def forward(s, x):
        return attended(s, x, band(x.shape[1], WIDTH - 1, ahead), relative, **how)

    return case(lambda: model(forward), X, time_axis=1)


def window(relative, ahead=0, **how):
    def holds(lifted):
        return max(s.row[-2] for s in lifted.spec.states if len(s.row) == 3) == WIDTH - 1 + ahead

    return scored(relative, ahead, **how).streams(delay=ahead, lengths=range(1, 8), atol=5e-6, holds=holds)


# --- chunks


def chunks(frames, before, piece=PIECE):
    """(T, T): each chunk attends to itself, and to some `before`."""
    piece = torch.arange(frames) // piece
    distance = piece[:, None] - piece
    return (distance >= 0) & (distance <= before)


def layer(before, relative=None, **how):
    """Attention within chunks behind a short convolution over time, added to what it takes."""

    def forward(s, x):
        x = x + attended(s, x, chunks(x.shape[1], before) if isinstance(before, int) else before(x), relative, **how)
        return x + s.conv(F.pad(x.mT, (2, 0))).mT

    return model(forward)


def layers(*how, chunk=PIECE, **more):
    return case(lambda: nn.Sequential(*(layer(*how, **more) for _ in range(2))), X, time_axis=1, chunk=chunk)


def steps_of(chunk, delay):
    return layers(2, chunk=chunk).streams(delay=delay, lengths=range(1, 20, 3))


def behind_a_stride():
    attend = layer(lambda x: chunks(x.shape[1], 1, 48))
    return Call(lambda s, x: s.attend(s.pick(F.pad(x.mT, (2, 0))).mT), pick=nn.Conv1d(8, 8, 3, 2), attend=attend)


def shared(s, x):
    """Chances that two products take, one of them those of the first head; keys turned by one permutation."""
    frames, rows = x.shape[1], x.shape[0]
    q, k, v = s.qkv(x).reshape(rows, frames, 3, 2, 4).unbind(2)
    scores = q.permute(2, 0, 1, 3) @ k.permute(2, 0, 3, 1)
    probabilities = s.drop(scores.masked_fill(~chunks(frames, 1), -1000).softmax(-1))
    y = (probabilities @ v.permute(2, 0, 1, 3)).permute(1, 2, 0, 3).flatten(2)
    return x + y + F.pad((probabilities[0:1] @ x[None, ..., :4]).squeeze(0), (0, 4))


def indexed(of):
    """A value of each frame's index beside a layer."""
    return case(
        lambda: Call(
            lambda s, x: s.gru(x)[0] + of(torch.arange(x.shape[1]))[:, None], gru=nn.GRU(8, 8, batch_first=True)
        ),
        X,
    )


class Extended(nn.Module):
    """Positions of a table that is made anew for the longest sequence so far."""

    def __init__(self):
        super().__init__()
        self.pe, self.attend = torch.zeros(0, 8), layer(1)
        self.extend(500)

    def extend(self, frames):
        if self.pe.shape[0] < frames:
            self.pe = torch.outer(torch.arange(frames).float(), torch.arange(8) / 8).sin()

    def forward(self, x):
        self.extend(x.shape[1])
        return self.attend(x + self.pe[: x.shape[1]])


ONE, NOT_LATE = {"time_axis": 1, "chunk": PIECE}, {"delay": 0, "tail": PIECE - 1, "lengths": range(1, 14)}
TABLE = {
    "positions relative to a frame stream within a band": {
        "strided, with frames ahead": window(strided, 2),
        "joined": window(joined),
        "padded, for a fused product": window(padded, fused=True),
        "causal": window(causal),
        "picked": window(picked),
        "by key": window(by_key),
    },
    "tables of frames by frames are rows of a band": {
        "by einsum, of values too": window(by_einsum, values=values_too),
        "by frames": window(by_frames),
        "by sums": window(by_sums),
        "of heads": window(of_heads),
    },
    "positions that no stream knows are refused": {
        "from the end": scored(from_end).refused("positions-over-time", "positions.py:"),
        "from the end, moved": scored(stretched).refused("not-frame-local", "positions.py:"),
        "by frame": scored(by_frame).refused("not-frame-local", "looks at all frames"),
    },
    "sums and extrema of frame indices are followed far": {
        "a sum of ones": indexed(lambda i: torch.ones_like(i).cumsum(0)).streams(lengths=[3, 70, 1300]),
        "the first two": indexed(lambda i: (i < 2).cumsum(0)).streams(lengths=[3, 70, 1300]),
        "segments of 300": indexed(lambda i: (i % 300 == 1).cumsum(0)).refused("positions-over-time", "positions.py:"),
        "starts of segments": indexed(lambda i: torch.where(i % 300 == 1, i, 0).cummax(0)[0]).refused(
            "positions-over-time", "positions.py:"
        ),
        "a late sum": indexed(lambda i: ((i < 2) | (i > 70_000)).float().cumsum(0)).refused(
            "positions-over-time", "positions.py:"
        ),
        "a sum that ends": indexed(lambda i: (i <= 500).cumsum(0)).refused("positions-over-time", "positions.py:"),
        "a sum over a table that ends": indexed(lambda i: torch.ones(500)[i].cumsum(0)).refused(
            "positions-over-time", "positions.py:"
        ),
        "one that ends later than can be tried": indexed(lambda i: (i <= 10**9).cumsum(0)).refused(
            "positions-over-time", "positions.py:"
        ),
    },
    "layers of whole chunks are not late": {
        "relative positions, strided": layers(2, strided).streams(**NOT_LATE),
        "chunks and a band": layers(lambda x: chunks(x.shape[1], 0) | band(x.shape[1], 5)).streams(**NOT_LATE),
        "chunks": layers(2).streams(**NOT_LATE),
        "alone": layers(0, fused=True).streams(**NOT_LATE),
        "in the type of the values": layers(1, typed=True).streams(**NOT_LATE),
        "relative positions": layers(1, joined).streams(**NOT_LATE),
        "positions of keys": layers(1, by_key).streams(**NOT_LATE),
        "weights that several products take": case(
            lambda: Call(shared, qkv=nn.Linear(8, 24), drop=nn.Dropout(0.1)), X, **ONE
        ).streams(**NOT_LATE),
        "a table for the longest sequence so far": case(Extended, X, **ONE).streams(**NOT_LATE),
        "long ones behind windows with a stride": case(behind_a_stride, X, time_axis=1, chunk=96).streams(
            delay=0, tail=48, lengths=range(90, 300, 41)
        ),
    },
    "steps of other frames than a chunk": {
        "parts of chunks": steps_of(6, 6),
        "two chunks": steps_of(8, 0),
        "a frame": steps_of(1, 6),
    },
}
