"""Caches of attention layers and of speech encoders, which grow up to an end or are full at once, are states."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .case import case

D, HEADS, W, CHUNK = 8, 2, 8, 4
LIMIT = 6


def attention(q, k, v, how):
    """Queries (B, H, T, E), keys and values (B, H, S, E)."""
    T, S = q.shape[2], k.shape[2]
    if how == "plain":
        return F.scaled_dot_product_attention(q, k, v)
    if how == "causal":
        return F.scaled_dot_product_attention(q, k, v, torch.ones(T, S, dtype=torch.bool).tril(S - T))
    if how == "masked":
        return F.scaled_dot_product_attention(q, k, v, ~torch.ones(T, S, dtype=torch.bool).triu(S - T + 1), scale=0.3)
    if how == "by distance":
        far = torch.arange(S)[None] - torch.arange(T)[:, None] - (S - T)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=far.float() * 0.1)
    if how == "shared heads":
        return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)
    return (q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ v


class CachedLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x, past, how):
        q, k, v = (t.unflatten(-1, (2, D // 2)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = attention(q, k, v, how).transpose(1, 2).flatten(2)
        return x + self.out(y), (k[:, :, -LIMIT:], v[:, :, -LIMIT:])


class Cached(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.layers, self.how = nn.ModuleList([CachedLayer(), CachedLayer()]), how

    def forward(self, x, past=None):
        after = []
        for i, layer in enumerate(self.layers):
            x, kept = layer(x, None if past is None else past[i], self.how)
            after.append(kept)
        return x, tuple(after)


def heads(x):
    """(B, T, D) as (B, H, T, E)."""
    return x.unflatten(-1, (HEADS, D // HEADS)).transpose(1, 2)


class Conformer(nn.Module):
    """Cache-aware, as NeMo's: x (B, T, 5), caches (layers, B, W, D) and (layers, B, D, 2), how much is there (B,)."""

    def __init__(self):
        super().__init__()
        self.inward = nn.Linear(5, D)
        self.attention = nn.ModuleList(nn.ModuleList(nn.Linear(D, D) for _ in range(5)) for _ in range(2))
        self.conv = nn.ModuleList(nn.Conv1d(D, D, 3, groups=D) for _ in range(2))
        self.u, self.v = (nn.Parameter(torch.randn(HEADS, 1, D // HEADS) / 10) for _ in range(2))

    def positions(self, frames, keys):
        far = torch.arange(keys - 1, -frames, -1.0)[:, None] * torch.exp(torch.arange(0, D, 2) * -(math.log(1e4) / D))
        table = torch.zeros(far.shape[0], D)
        table[:, 0::2], table[:, 1::2] = far.sin(), far.cos()
        return table[None]

    def forward(self, x, channels, times, there):
        x, after, later = self.inward(x), [], []
        frames = x.shape[1]
        keys = frames + W
        mask = (torch.arange(keys)[None] < (W - there)[:, None])[:, None, None].expand(-1, 1, frames, -1)
        for i, (layer, conv) in enumerate(zip(self.attention, self.conv, strict=True)):
            given = torch.cat([channels[i], x], 1)
            after.append(torch.cat([channels[i][:, frames:], x], 1))
            q, k, v, p = (
                heads(f(t)) for f, t in zip(layer, (x, given, given, self.positions(frames, keys)), strict=False)
            )
            far = F.pad((q + self.v) @ p.mT, (1, 0))
            far = far.view(*far.shape[:2], -1, frames)[:, :, 1:].view(*far.shape[:3], -1)[..., :keys]
            scores = ((q + self.u) @ k.mT + far) / math.sqrt(D // HEADS)
            probabilities = scores.masked_fill(mask, -10000.0).softmax(-1).masked_fill(mask, 0.0)
            x = x + layer[4]((probabilities @ v).transpose(1, 2).flatten(2))
            joined = torch.cat([times[i], x.mT], 2)
            later.append(joined[:, :, -2:])
            x = x + F.silu(conv(joined)).mT
        return x, torch.stack(after), torch.stack(later), torch.clamp(there + frames, max=W)


class Zipformer(nn.Module):
    """One layer at the full rate and one at half of it, as icefall's `streaming_forward`: time first inside."""

    def __init__(self):
        super().__init__()
        self.inward, self.parts = nn.Linear(5, D), nn.ModuleList(nn.Linear(D, 3 * D) for _ in range(2))
        self.v, self.out, self.pos, self.gate = (
            nn.ModuleList(nn.Linear(D, n * D) for _ in range(2)) for n in (1, 1, 1, 2)
        )
        self.causal = nn.ModuleList(nn.Conv1d(D, D, 3, groups=D) for _ in range(2))
        self.within = nn.ModuleList(nn.Conv1d(D, D, 5, padding=2, groups=D) for _ in range(2))
        self.edges, self.weights = nn.Parameter(torch.rand(2, D, 5)), nn.Parameter(torch.randn(2))

    def positions(self, frames, left):
        far = torch.arange(-(frames + left - 1), frames).float()[:, None]
        angle = (torch.log(far.abs() + 1) * far.sign() * torch.arange(1, D // 2 + 1)).atan()
        return torch.cat([angle.cos(), angle.sin()], 1)

    def edge(self, frames):
        left, right = self.edges
        if frames < 5:
            return 1 + left[:, :frames] + right[:, -frames:]
        more = torch.zeros(D, frames - 5)
        return 1 + torch.cat([left, more], 1) + torch.cat([more, right], 1)

    def layer(self, i, x, caches, mask):
        (frames, rows, _), left = x.shape, caches[0].shape[0]
        q, k, p = self.parts[i](x).chunk(3, -1)
        k, v = torch.cat([caches[0], k]), torch.cat([caches[1], self.v[i](x)])
        keys = k.shape[0]
        q, k, p, many = (t.reshape(-1, rows, HEADS, D // HEADS).permute(2, 1, 0, 3) for t in (q, k, p, v))
        far = p @ self.pos[i](self.positions(frames, left)).reshape(-1, HEADS, 1, D // HEADS).permute(1, 2, 3, 0)
        steps = far.stride()
        far = far.as_strided(
            (HEADS, rows, frames, keys), (steps[0], steps[1], steps[2] - steps[3], steps[3]), steps[3] * (frames - 1)
        )
        probabilities = (q @ k.mT + far).masked_fill(mask[:, None], -1000).softmax(-1)
        x = x + self.out[i]((probabilities @ many).permute(2, 1, 0, 3).reshape(frames, rows, D))
        a, b = self.gate[i](x).chunk(2, -1)
        new = (a * b.sigmoid()).permute(1, 2, 0)
        joined = torch.cat([caches[2], new], -1)
        x = x + (self.within[i](new) * self.edge(frames) + self.causal[i](joined)).permute(2, 0, 1)
        kept = torch.cat([caches[0], self.parts[i](x).chunk(3, -1)[1]])[-left:]
        return x, [kept, v[-left:], joined[..., -2:]]

    def forward(self, x, states):
        past, x = states[-1], self.inward(x).transpose(0, 1)
        frames, rows, _ = x.shape
        missing = (past[:, None] <= torch.arange(W).expand(rows, W)).flip(1)
        mask = torch.cat([missing, torch.zeros(rows, frames, dtype=torch.bool)], 1)[:, None]
        full, first = self.layer(0, x, states[:3], mask)
        half = (full.reshape(frames // 2, 2, rows, D) * self.weights.softmax(0)[:, None, None]).sum(1)
        half, second = self.layer(1, half, states[3:6], mask[..., ::2])
        up = half[:, None].expand(-1, 2, rows, D).reshape(frames, rows, D)
        return (full + up).transpose(0, 1), [*first, *second, past + frames]


def caches_of_a_conformer(rows):
    return torch.zeros(2, rows, W, D), torch.zeros(2, rows, D, 2), torch.zeros(rows, dtype=torch.int64)


def caches_of_a_zipformer(rows):
    sizes = [(n, rows, D) if n else (rows, D, 2) for n in (W, W, 0, W // 2, W // 2, 0)]
    return ([*map(torch.zeros, sizes), torch.zeros(rows, dtype=torch.int32)],)


def conformer(rows):
    states = {"channels": 1, "times": 2, "there": 3}
    row = case(Conformer, torch.randn(rows, CHUNK, 5), *caches_of_a_conformer(rows), states=states, time_axis=None)
    return row.streams(holds=lambda lifted: not lifted.spec.rows)


def cached(how, frames=1):
    names = ["past.0.0", "past.0.1", "past.1.0", "past.1.1", "past_count"]
    return case(lambda: Cached(how), torch.randn(1, frames, D), states={"past": 1}, time_axis=None).streams(
        states=names
    )


TABLE = {
    "caches that grow up to an end are states": {
        "masked": cached("masked"),
        "shared heads": cached("shared heads"),
        "plain": cached("plain"),
        "causal": cached("causal"),
        "by distance": cached("by distance"),
        "written": cached("written"),
        "causal, two frames": cached("causal", 2),
        "by distance, two frames": cached("by distance", 2),
        "masked, two frames": cached("masked", 2),
    },
    "a streaming encoder is the author's from the first chunk on": {
        "cache-aware conformer, several rows": conformer(3),
        "zipformer": case(
            Zipformer, torch.randn(1, CHUNK, 5), *caches_of_a_zipformer(1), states={"states": 1}, time_axis=None
        ).streams(holds=lambda lifted: lifted.spec.rows == 1),
        "cache-aware conformer": conformer(1),
    },
}
