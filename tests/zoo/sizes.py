"""Tables of frames by frames and other values that `forward` computes from the length, and sizes in buffers."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))  # (B, T, C)


def scores(s, x):
    return s.q(x) @ s.k(x).mT


def attended(s, x, scores):
    return scores.softmax(-1) @ s.v(x)


def masked(s, x, mask):
    return attended(s, x, scores(s, x).masked_fill(~mask, float("-inf")))


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


def before_a_loop(s, x):
    h, ys = torch.zeros(x.shape[0], 8), []
    for frame in lists(s, x).unbind(1):
        h = s.cell(frame, h)
        ys.append(h)
    return torch.stack(ys, 1)


def half(s, x):
    size = x.shape[1]
    return masked(s, x, torch.tensor([[0 <= 2 * (i - j) <= size for j in range(size)] for i in range(size)]))


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


def by_distance(s, x):
    size = x.shape[1]
    near = scores(s, x) + s.near(distances(size, 2))[..., 0]
    return attended(s, x, near.masked_fill(~band_of_lists(size), float("-inf")))


def from_the_end(size):
    """A frame attends to none of the last ones but its own, however many there are."""
    mask = torch.eye(size, dtype=torch.bool)
    for i in range(size):
        mask[i, : max(size - 4 - i, 0)] = True
    return mask


def wider_later(size):
    """A band, of one frame more from frame 2500 on."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    for i in range(size):
        mask[i, max(i - 3 - (i >= 2500), 0) : i + 1] = True
    return mask


def last_window(s, x):
    """Zeros on both sides, so that windows of `size` frames, `stride` apart, take all frames."""
    length = x.shape[1]
    windows = torch.ceil((length - s.size + s.left) / s.stride + 1).to(torch.int64) - 1
    right = windows * s.stride + s.size - s.left - length
    most = max(s.left, right)
    before = F.pad(x, (s.left, right)) if length > most else x
    return before.unfold(1, 4, 2).sum(-1)


def attention(forward, **options):
    parts = {name: nn.Linear(8, 8) for name in "qkv"}
    return case(Call(forward, **parts, cell=nn.GRUCell(8, 8), near=nn.Embedding(5, 1)), X, time_axis=1, **options)


def by_mask(mask, **options):
    return attention(lambda s, x: masked(s, x, mask(x.shape[1])), **options)


def looked_up(row, delay=0):
    return row.streams(delay=delay, lengths=range(1, 9), atol=5e-6, holds=lambda lifted: lifted.spec.rows is None)


TABLE = {
    "a table made in forward is looked up": {
        "segments": looked_up(attention(segments), 3),
        "lists": looked_up(attention(lists)),
        "written": looked_up(attention(written)),
        "stacked": looked_up(attention(stacked)),
        "without context": looked_up(attention(without_context)),
        "fused": looked_up(attention(fused)),
        "before a loop": looked_up(attention(before_a_loop)),
    },
    "a table that a function makes is looked up": {
        "chunks and some before": looked_up(by_mask(lambda size: chunk_mask(size, 4, 2)), 3),
        "distances": looked_up(attention(by_distance)),
        "device and numbers by name": looked_up(
            by_mask(lambda size: chunk_mask(size, chunk=2, left=1, device=X.device)), 1
        ),
        "all before, bounded": looked_up(by_mask(lambda size: chunk_mask(size, 1), max_context=64)),
        "added": looked_up(attention(lambda s, x: attended(s, x, scores(s, x) + added_band(x.shape[1])))),
    },
    "a table that follows from the length is refused": {
        "a band of half the length": attention(half).refused("loop-table-of-length"),
        "wider far away": by_mask(wider_later).refused("loop-frames-unlike", "sizes.py:"),
        "from the end": by_mask(from_the_end).refused("loop-looks-ahead", "sizes.py:"),
    },
    "sizes in buffers are numbers": {
        "windows": case(
            Call(last_window, size=torch.tensor(4), stride=torch.tensor(2), left=torch.tensor(2)),
            torch.randn(2, 12),
            chunk=2,
        ).streams(tail=1, end=False, holds=lambda lifted: not lifted.spec.assumptions),
    },
}
