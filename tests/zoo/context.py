"""Attention to all past frames is bounded on request: to the last frames, or by an end of the stream."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))  # (B, T, C)
N = 5


def causal(x, frames=math.inf):
    """(T, T): itself and the frames before, as many as `frames` in all."""
    separate = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])[None]
    return (separate >= 0) & (separate < frames)


def heads(s, x, kv=2):
    q, k, v = s.qkv(x).split([8, 4 * kv, 4 * kv], -1)
    return [t.unflatten(2, (-1, 4)).transpose(1, 2) for t in (q, k, v)]


def fused(s, x, kv=2, **given):
    return F.scaled_dot_product_attention(*heads(s, x, kv), **given).transpose(1, 2).flatten(2)


def by_flag(s, x, mask=None):
    return fused(s, x, **({"is_causal": True} if mask is None else {"attn_mask": mask}))


def grouped(s, x, mask=None):
    return fused(s, x, 1, attn_mask=causal(x) if mask is None else mask, enable_gqa=True)


def by_hand(s, x, mask=None):
    q, k, v = heads(s, x)
    scores = (q @ k.mT / 2).masked_fill(~(causal(x) if mask is None else mask), -torch.inf)
    return (F.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)


def by_slopes(s, x, mask=None):
    at = torch.arange(x.shape[1])
    return fused(s, x, attn_mask=torch.where(causal(x) if mask is None else mask, (at[None] - at[:, None]) * 0.1, -1e9))


def by_layer(s, x, mask=None):
    return s.attend(x, x, x, attn_mask=~(causal(x) if mask is None else mask), need_weights=s.weights)[0]


def twice(s, x, mask=None):
    return s.head(by_flag(s, by_hand(s, x, mask), mask))


class Tables(nn.Module):
    """As nanoGPT has it: tables for 24 frames, of positions and of a mask."""

    def __init__(self):
        super().__init__()
        self.qkv, self.at = nn.Linear(8, 24), nn.Embedding(24, 8)
        self.register_buffer("mask", torch.ones(24, 24).tril()[None, None])

    def forward(self, x):
        frames = x.shape[1]
        q, k, v = heads(self, x + self.at(torch.arange(frames)))
        scores = (q @ k.mT / 2).masked_fill(self.mask[:, :, :frames, :frames] == 0, -torch.inf)
        return (F.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)


QKV, LAYER = nn.Linear(8, 24), nn.MultiheadAttention(8, 2, batch_first=True)
FLAGGED = Call(lambda s, x: by_flag(s, x), qkv=QKV)


def bounded(function, **parts):
    """Held to the model with an explicit mask; so is the reference of an export."""
    model, banded = Call(lambda s, x: function(s, x), **parts), Call(lambda s, x: function(s, x, causal(x, N)), **parts)

    def holds(lifted):
        with torch.no_grad():
            return torch.allclose(lifted.original(X)[0], banded(X), rtol=1e-5, atol=2e-6) and bounds(N)(lifted)

    return case(model, X, time_axis=1, max_context=N).streams(
        truth=banded, delay=0, lengths=range(1, 14), notes=["attention looks at 5 frames (max_context)"], holds=holds
    )


def bounds(context=None, frames=None):
    return lambda lifted: (lifted.spec.max_context, lifted.spec.max_frames) == (context, frames)


TABLE = {
    "attention to all past frames is bounded to the last of them": {
        "two, by hand and by flag": bounded(twice, qkv=QKV, head=nn.Linear(8, 8)),
        "a layer": bounded(by_layer, attend=LAYER, weights=False),
        "groups of queries": bounded(grouped, qkv=nn.Linear(8, 16)),
        "slopes": bounded(by_slopes, qkv=QKV),
        "a layer with weights": bounded(by_layer, attend=LAYER, weights=True),
    },
    "a stream with an end attends to all of it": {
        "tables of positions and of a mask": case(Tables, X, time_axis=1, max_frames=24).streams(
            lengths=range(1, 25, 4), holds=bounds(frames=24)
        ),
        "with a bound too": case(Tables, X, time_axis=1, max_frames=24, max_context=4).streams(
            lengths=range(1, 5), holds=bounds(4, 24)
        ),
        "by flag": case(FLAGGED, X, time_axis=1, max_frames=12).streams(lengths=range(1, 13), holds=bounds(frames=12)),
        "with a bound beyond the end": case(Tables, X, time_axis=1, max_frames=24, max_context=400).streams(
            lengths=range(20, 25), holds=bounds(frames=24)
        ),
        "which is not said": case(Tables, X, time_axis=1).refused(
            "time-axis-fixed-length", "index out of range", "say max_frames=", "(--max-frames"
        ),
    },
    "what a context cannot bound is refused": {
        "nothing": case(nn.GRU(8, 4, batch_first=True), X, max_context=4).refused(
            "max-context-without-attention", "max_context=4", "--max-context 4"
        ),
        "attention that looks ahead": case(Call(fused, qkv=QKV), X, time_axis=1, max_context=4).refused(
            "not-frame-local", "looks at all frames"
        ),
    },
}
